package cue

import (
	"fmt"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// The cost of a change follows the number of its files, however many of them
// have the same policy.
func TestManyFilesWithOneName(t *testing.T) {
	const files = 100_000
	policy := &schema.Policy{Metadata: schema.Metadata{Name: "same"}}
	var added, deleted []*unit
	for i := range files {
		key := fmt.Sprintf("policies/%06d.yaml", i)
		added = append(added, &unit{key: key, entries: []*schema.Entry{schema.NewEntry(policy, schema.Origin{File: key, Line: 1})}})
		deleted = append(deleted, &unit{key: key, deleted: true})
	}
	x := newIndex()
	x.update(added)
	if verdict := x.verdict(time.Now()); len(verdict.Errors) != files {
		t.Fatalf("got %d errors, want one for each of %d files", len(verdict.Errors), files)
	}
	began := time.Now()
	x.update(deleted)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("deleting the files took %s", took)
	}
	if verdict := x.verdict(time.Now()); len(verdict.Errors) != 0 || verdict.Set.Len() != 0 {
		t.Errorf("got %d errors and a set of %d policies, want none", len(verdict.Errors), verdict.Set.Len())
	}
}
