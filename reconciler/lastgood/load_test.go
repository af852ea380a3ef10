package lastgood

import (
	"os"
	"testing"

	"github.com/boifi/hfi/schema"
)

// Load reads the disk once only.
func TestLoadReadsOnce(t *testing.T) {
	folder := t.TempDir()
	want := state(1, schema.NewSet(entry(t, "a", 1)))
	mustSave(t, New(folder, testKeys, quiet()), want)
	s := New(folder, testKeys, quiet())
	for range 2 {
		got, err := s.Load()
		if err != nil || !same(got, want) {
			t.Fatalf("loaded %+v, %v", got, err)
		}
		if err := os.WriteFile(s.path(), []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
