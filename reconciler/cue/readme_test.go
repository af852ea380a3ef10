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
	block := func(kind string) string {
		_, rest, found := strings.Cut(string(text), "```"+kind+"\n")
		body, _, closed := strings.Cut(rest, "```")
		if !found || !closed {
			t.Fatalf("README.md has no example in %s", kind)
		}
		return body
	}
	for field := range fields {
		name := field[strings.LastIndexByte(field, '.')+1:]
		if name = strings.TrimSuffix(name, "[]"); name != "*" && !strings.Contains(string(text), name) {
			t.Errorf("README.md does not mention %s", field)
		}
	}
	cue := newStock(t)
	for _, s := range []sample{{file: "p.yaml", text: block("yaml")}, {file: "team/p.cue", text: block("cue")}} {
		if valid, output := cue.ask(s); !valid {
			t.Errorf("stock cue rejects the example %s: %s", s.file, output)
		}
		if verdict := ours(t, New("policies"), s); verdict.Set == nil || verdict.Set.Len() == 0 {
			t.Errorf("the workspace rejects the example %s: %q", s.file, lines(verdict.Errors))
		}
	}
}
