// Package testtool finds what tests need on a machine: the programs that "make
// tools" builds in pinned versions, such as etcd and Envoy, and free ports.
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

// Path returns a program's file. If it is missing, the test fails in CI and is
// skipped elsewhere.
func Path(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(Root(), ".tools", "bin", name)
	if _, err := os.Stat(path); err != nil {
		Lacks(t, "%s is not built: run make tools", name)
	}
	return path
}

// Lacks ends a test because this machine lacks something: the test fails in CI
// and is skipped elsewhere.
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

// NoteSources calls stat on each file that the project's programs are built
// from, for tests that build them. The go command caches a test's result by the
// files that the test's process opens or stats; it does not see those of
// compilers that the test runs.
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

// Slow says whether tests run at full size, as "make test-slow" has it by HFI_SLOW=1.
func Slow() bool { return os.Getenv("HFI_SLOW") == "1" }

// SlowOnly skips a test that takes long unless tests run at full size.
func SlowOnly(t testing.TB) {
	t.Helper()
	if !Slow() {
		t.Skip("takes long: HFI_SLOW=1 runs it")
	}
}
