package cue

import (
	"testing"

	"github.com/boifi/hfi/schema"
)

// ours returns a Workspace's verdict on a sample.
func ours(t testing.TB, w *Workspace, s sample) *schema.Verdict {
	t.Helper()
	return apply(t, w, commit("c", "",
		content("cue.mod/module.cue", testModule), content(schemaFile, schema.CUE), content("policies/"+s.file, s.text)))
}

// TestSamples compares the verdicts of stock cue, a Workspace and the table.
func TestSamples(t *testing.T) {
	cue := newStock(t)
	if len(samples) < 60 {
		t.Fatalf("the table has only %d files", len(samples))
	}
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			cue := &stock{t: t, cue: cue.cue, schema: cue.schema}
			if valid, output := cue.ask(s); valid != s.valid {
				t.Errorf("stock cue: valid is %t, want %t:\n%s\n%s", valid, s.valid, s.text, output)
			}
			verdict := ours(t, New("policies"), s)
			if valid := len(verdict.Errors) == 0; valid != s.valid {
				t.Errorf("workspace: valid is %t, want %t:\n%s\n%v", valid, s.valid, s.text, verdict.Errors)
			}
			if (verdict.Set == nil) != (len(verdict.Errors) > 0) {
				t.Errorf("the verdict has %d errors and a set: %t", len(verdict.Errors), verdict.Set != nil)
			}
			for _, p := range append(verdict.Errors, verdict.Warnings...) {
				readable(t, p, s.isCUE())
			}
		})
	}
}

// TestCanonicalFormIsValid checks that the canonical form of a valid policy is a
// valid file, for stock cue too, and is its own canonical form.
func TestCanonicalFormIsValid(t *testing.T) {
	cue := newStock(t)
	for _, s := range samples {
		if !s.valid {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			verdict := ours(t, New("policies"), s)
			if verdict.Set == nil {
				t.Fatalf("invalid: %v", verdict.Errors)
			}
			for _, entry := range verdict.Set.Entries() {
				again := sample{file: "p.json", text: string(entry.Canonical)}
				second := ours(t, New("policies"), again)
				if second.Set == nil {
					t.Fatalf("the canonical form is invalid: %s\n%v", entry.Canonical, second.Errors)
				}
				if got := second.Set.Get(entry.Name()); got == nil || got.Hash != entry.Hash {
					t.Errorf("the canonical form of the canonical form differs:\n%s\n%v", entry.Canonical, got)
				}
				cue := &stock{t: t, cue: cue.cue, schema: cue.schema}
				if valid, output := cue.ask(again); !valid {
					t.Errorf("stock cue rejects the canonical form %s:\n%s", entry.Canonical, output)
				}
			}
		})
	}
}
