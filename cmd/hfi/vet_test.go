package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// A file that may not be read and that the daemon would not read is no error.
func TestOverlookedFilesNeedNotBeReadable(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "work")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"README": 0, "b.yam": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("metadata: {name: b}\nspec: {}\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	testtool.AsNobody(t, dir, func() {
		found, err := overlookedPolicies(t.Context(), dir, dir)
		if err != nil || len(found) != 1 || found[0].File != "b.yam" {
			t.Errorf("found %v, %v", found, err)
		}
	})
}
