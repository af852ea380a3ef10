package cue

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// TestReadme checks that schema/README.md has every field, and that its examples
// are valid for stock cue and for a Workspace.
func TestReadme(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testtool.Root(), "schema", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	// examples returns those of a kind, of which there must be some.
	examples := func(kind string, count int) (bodies []string) {
		for i, rest := range strings.Split(string(text), "```"+kind+"\n") {
			if body, _, closed := strings.Cut(rest, "```"); closed && i > 0 {
				bodies = append(bodies, body)
			}
		}
		if len(bodies) != count {
			t.Fatalf("README.md has %d examples in %s, want %d", len(bodies), kind, count)
		}
		return bodies
	}
	for field := range fields {
		name := field[strings.LastIndexByte(field, '.')+1:]
		if name = strings.TrimSuffix(name, "[]"); name != "*" && !strings.Contains(string(text), name) {
			t.Errorf("README.md does not mention %s", field)
		}
	}
	cue := newStock(t)
	var all []sample
	for _, text := range examples("yaml", 3) {
		all = append(all, sample{file: "p.yaml", text: text})
	}
	for _, text := range examples("cue", 1) {
		all = append(all, sample{file: "team/p.cue", text: text})
	}
	for _, s := range all {
		if valid, output := cue.ask(s); !valid {
			t.Errorf("stock cue rejects the example %s: %s", s.file, output)
		}
		if verdict := ours(t, New("policies"), s); verdict.Set == nil || verdict.Set.Len() == 0 {
			t.Errorf("the workspace rejects the example %s: %q", s.file, lines(verdict.Errors))
		}
	}
}
