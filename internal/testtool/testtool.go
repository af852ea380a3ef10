// Package testtool has helpers for tests: it finds the programs that "make tools"
// builds in pinned versions, such as etcd and Envoy, and free ports, and waits for
// conditions.
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

// Root returns the repository's root folder.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("no caller information: testtool needs a build without -trimpath")
	}
	return filepath.Dir(filepath.Dir(filepath.Dir(file)))
}

// Path returns the path of a program. If it is missing, the test fails in CI and is skipped elsewhere.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(), ".tools", "bin", name)
	if _, err := os.Stat(path); err != nil {
		Lacks(t, "%s is not built: run make tools", name)
	}
	return path
}

// Lacks ends a test because something is missing on this machine: the test fails in
// CI and is skipped elsewhere.
func Lacks(t testing.TB, format string, arguments ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, arguments...)
	}
	t.Skipf(format, arguments...)
}

// FreeAddress returns a free HOST:PORT on the loopback interface. The port is
// outside of the range from which kernels choose for port 0 and for connections, so
// that it stays free until a program listens on it, and while a program restarts.
// Prefer port 0 if the program supports it.
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

// NoteSources calls stat on each source file of the project's programs, for tests
// that build them. The go command caches a test's result by the files that the
// test's process opens or stats; it does not see those of compilers that the test
// runs.
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
			t.Fatalf("reading the project's sources: %v", err)
		}
	}
}

// Slow reports whether tests run at full size: "make test-slow" sets HFI_SLOW=1.
func Slow() bool { return os.Getenv("HFI_SLOW") == "1" }

// SlowOnly skips a slow test unless tests run at full size.
func SlowOnly(t testing.TB) {
	t.Helper()
	if !Slow() {
		t.Skip("a slow test: HFI_SLOW=1 runs it")
	}
}
