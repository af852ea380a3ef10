package git

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// The offsets are those that git lists, also from a table for packs of more than 2 GiB.
func TestPackIndexOffsets(t *testing.T) {
	repo, _ := longHistory(t, 20, 20)
	repo.Server("repack", "-adq")
	packs, err := filepath.Glob(filepath.Join(repo.Bare(), "objects", "pack", "*.pack"))
	if err != nil || len(packs) != 1 {
		t.Fatalf("%v, %v", packs, err)
	}
	for _, from := range []string{"0x7fffffff", "0x200"} { // From that offset on, the table is used.
		name := filepath.Join(t.TempDir(), "pack.idx")
		repo.Server("index-pack", "--index-version=2,"+from, "-o", name, packs[0])
		index, err := readIndex(name)
		if err != nil {
			t.Fatal(err)
		}
		if inTable := len(index.Offset64) > 0; inTable != (from == "0x200") {
			t.Errorf("from %s: %d bytes in the table", from, len(index.Offset64))
		}
		objects := 0
		for line := range strings.Lines(repo.Server("verify-pack", "-v", packs[0])) {
			fields := strings.Fields(line)
			if len(fields) < 5 || len(fields[0]) != 40 {
				continue
			}
			objects++
			if offset, err := index.offset(plumbing.NewHash(fields[0])); err != nil || fmt.Sprint(offset) != fields[4] {
				t.Errorf("from %s: %s is at %d (%v), and git lists %s", from, fields[0], offset, err, line)
			}
		}
		if objects < 60 {
			t.Errorf("git lists %d objects", objects)
		}
		for _, absent := range []string{"", strings.Repeat("f", 40), strings.Repeat("0", 39) + "1"} {
			if _, err := index.offset(plumbing.NewHash(absent)); !errors.Is(err, plumbing.ErrObjectNotFound) {
				t.Errorf("%q: %v", absent, err)
			}
		}
		index.Offset64 = nil
		if from == "0x200" {
			if _, err := index.offset(plumbing.NewHash(repo.Server("rev-parse", "main~10:policies"))); err == nil {
				t.Error("an offset that is not in the table has no error")
			}
		}
	}
}
