package cue

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/schema"
)

// jargon are terms of CUE that authors of YAML need not know.
var jargon = []string{
	"empty disjunction", "conflicting values", "incomplete value", "field not allowed", "mismatched types", "out of bound",
	"does not satisfy", "matchN", "_|_", "does not exist in", "invalid value",
}

// readable checks the form of a problem: its place, and one line without jargon.
func readable(t testing.TB, p schema.Problem, isCUE bool) {
	t.Helper()
	if p.File == "" || p.Message == "" {
		t.Errorf("a problem without a file or a sentence: %#v", p)
	}
	if p.Line < 0 || p.Line > 0 && p.Column < 1 {
		t.Errorf("a problem with an invalid position: %#v", p)
	}
	if strings.ContainsAny(p.Message, "\n\t") {
		t.Errorf("a sentence of more than one line: %q", p.Message)
	}
	if strings.Contains(p.Message, "empty disjunction") || strings.Contains(p.Message, repository) || strings.Contains(p.Message, "policy.cue:") {
		t.Errorf("the sentence shows internals: %q", p.Message)
	}
	if isCUE {
		return // authors of CUE know its terms
	}
	for _, word := range jargon {
		if strings.Contains(p.Message, word) {
			t.Errorf("the sentence has CUE's term %q: %q", word, p.Message)
		}
	}
}
