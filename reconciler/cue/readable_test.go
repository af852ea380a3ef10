package cue

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/schema"
)

// jargon is what no one who writes YAML should have to know.
var jargon = []string{
	"empty disjunction", "conflicting values", "incomplete value", "field not allowed", "mismatched types", "out of bound",
	"does not satisfy", "matchN", "_|_", "does not exist in", "invalid value",
}

// readable checks what holds for every problem that a person sees.
func readable(t testing.TB, p schema.Problem, isCUE bool) {
	t.Helper()
	if p.File == "" || p.Message == "" {
		t.Errorf("a problem without a file or a sentence: %#v", p)
	}
	if p.Line < 0 || p.Line > 0 && p.Column < 1 {
		t.Errorf("a problem at no place: %#v", p)
	}
	if strings.ContainsAny(p.Message, "\n\t") {
		t.Errorf("a sentence of more than one line: %q", p.Message)
	}
	if strings.Contains(p.Message, "empty disjunction") || strings.Contains(p.Message, repository) || strings.Contains(p.Message, "policy.cue:") {
		t.Errorf("the sentence shows how it is made: %q", p.Message)
	}
	if isCUE {
		return // an author of CUE knows CUE's words
	}
	for _, word := range jargon {
		if strings.Contains(p.Message, word) {
			t.Errorf("%q is CUE's own word: %q", word, p.Message)
		}
	}
}
