// Package testtool finds what tests need of a machine: the stock programs that
// they hold hfi against, which "make tools" builds by pinned version, and ports.
package testtool

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Root is the repository's root folder.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("no caller information: testtool needs a build without -trimpath")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Path is the program's file. Where it is missing the test fails in CI, and
// is skipped on a person's machine.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(), ".tools", "bin", name)
	if _, err := os.Stat(path); err != nil {
		Lacks(t, "%s is not built: run make tools", name)
	}
	return path
}

// Lacks ends a test for which this machine lacks something: in CI it fails, on
// a person's machine it is skipped.
func Lacks(t testing.TB, format string, arguments ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, arguments...)
	}
	t.Skipf(format, arguments...)
}

// FreeAddress is a HOST:PORT of the loopback that nothing listens on. It is
// none of those that systems choose from for a port 0 and for connections, so
// that it stays free until a program listens on it, and while one restarts.
// Where a program can choose its port itself, let it.
func FreeAddress(t testing.TB) string {
	t.Helper()
	const first, count = 12_000, 20_000
	var err error
	for range 100 {
		var listener net.Listener
		if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(count))); err == nil {
			defer listener.Close()
			return listener.Addr().String()
		}
	}
	t.Fatalf("no port is free: %v", err)
	return ""
}

// NoteSources looks at each file that the project's programs are built from,
// for a test that has them built. The go command remembers a passing test's
// result by the files that the test itself has looked at; what the compilers
// look at that the test runs, it cannot see.
func NoteSources(t testing.TB) {
	t.Helper()
	for _, part := range []string{"Makefile", "go.mod", "go.sum", "cmd", "deploy", "filter", "internal", "policies", "reconciler", "schema"} {
		err := filepath.WalkDir(filepath.Join(Root(), part), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			_, err = os.Stat(path)
			return err
		})
		if err != nil {
			t.Fatalf("looking at the project's sources: %v", err)
		}
	}
}

// Slow says whether tests run at full size, as "make test-slow" has it by HFI_SLOW=1.
func Slow() bool { return os.Getenv("HFI_SLOW") == "1" }

// SlowOnly skips a test that takes long unless tests run at full size.
func SlowOnly(t testing.TB) {
	t.Helper()
	if !Slow() {
		t.Skip("takes long: HFI_SLOW=1 runs it")
	}
}
