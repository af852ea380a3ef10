package main

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// The daemon lists the first problems and counts all: the table's count is of all.
func TestStatusCountsTheProblemsThatAreNotListed(t *testing.T) {
	listed := make([]schema.Problem, 1000)
	for i := range listed {
		listed[i] = schema.Problem{File: "policies/bad.yaml", Message: "is wrong"}
	}
	for _, test := range []struct {
		total int
		want  string
	}{
		{10_000, "… and 9980 more (-o json has the first 1000)"},
		{1000, "… and 980 more (-o json has them)"},
		{0, "… and 980 more (-o json has them)"}, // a daemon of before the totals
	} {
		var out strings.Builder
		a := &app{stdout: &out, now: time.Now}
		if err := a.printStatus(&api.Status{Source: api.SourceStatus{Errors: listed, ErrorsTotal: test.total}}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), test.want) {
			t.Errorf("of %d errors the table says\n%s\nand not %q", test.total, out.String(), test.want)
		}
	}
}
