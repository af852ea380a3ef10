package testtool

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

// AsNobody runs a function with the rights to files of a user that nobody has
// granted anything, except to reach a folder: a test's is not everybody's. The
// function must not leave the goroutine.
func AsNobody(t testing.TB, folder string, run func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		run() // The modes bind this user.
		return
	}
	for above := filepath.Dir(folder); above != os.TempDir() && above != "/"; above = filepath.Dir(above) {
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		Lacks(t, "the user for files cannot be changed: %v", err)
	}
	defer func() { _ = syscall.Setfsuid(0) }()
	run()
}
