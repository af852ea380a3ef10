//go:build unix

package lastgood

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boifi/hfi/schema"
)

// asFullDisk marks a run of this test binary as the child process with the full disk.
const asFullDisk = "HFI_TEST_FULL_DISK"

// A full disk is an error, and the previous state can still be loaded. A limit
// on the size of files simulates the disk. It applies to a whole process, with
// the test's log, so a child process runs the test.
func TestSaveOnAFullDiskKeepsTheStateBefore(t *testing.T) {
	if os.Getenv(asFullDisk) == "" {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), asFullDisk+"=1")
		out, err := child.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
			t.Fatalf("the child process: %v\n%s", err, out)
		}
		return
	}
	folder := t.TempDir()
	s := New(folder, testKeys, quiet())
	before := state(1, schema.NewSet(entry(t, "a", 1)))
	mustSave(t, s, before)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	short := unix.Rlimit{Cur: uint64(size(t, folder) + 20), Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &short); err != nil {
		t.Fatal(err)
	}
	err := s.Save(state(2, schema.NewSet(entry(t, "a", 2), entry(t, "b", 2))))
	rewriteErr := s.Save(state(2, schema.NewSet(entry(t, "a", 2), entry(t, "b", 2))))
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	if err == nil || rewriteErr == nil {
		t.Errorf("saving beyond the limit: %v, then %v", err, rewriteErr)
	}
	if loaded := load(t, folder); !same(loaded, before) {
		t.Errorf("loaded %+v", loaded)
	}
	after := state(3, schema.NewSet(entry(t, "c", 3)))
	mustSave(t, s, after)
	if loaded := load(t, folder); !same(loaded, after) {
		t.Errorf("once there is space again: loaded %+v", loaded)
	}
}
