package cue

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// A file or folder that may not be read is an error of its own, beside those of
// the other files. One that has no policies does not matter.
func TestDirNamesWhatCannotBeRead(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "work")
	for _, file := range []string{"policies/a.yaml", "policies/b.yaml", "policies/c.cue", "policies/README", "policies/team/d.yaml", "other/e.txt"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte("metadata: {name: Wrong}\nspec: {rules: [{fault: {delay_ms: 1}}]}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"policies/b.yaml", "policies/c.cue", "policies/README", "policies/team", "other"} {
		if err := os.Chmod(filepath.Join(dir, name), 0); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.Chmod(filepath.Join(dir, name), 0o755) }()
	}
	w := New("policies")
	testtool.AsNobody(t, dir, func() {
		delta, err := w.Scan(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		verdict, err := w.Apply(context.Background(), delta)
		if err != nil {
			t.Fatal(err)
		}
		wantErrors(t, verdict, "policies/a.yaml:1:18: metadata.name",
			"policies/b.yaml: this file cannot be read: permission denied",
			"policies/c.cue: this file cannot be read: permission denied",
			"policies/team: this folder cannot be read: permission denied")
	})
}
