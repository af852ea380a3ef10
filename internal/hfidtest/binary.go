// Package hfidtest runs the daemon for tests as its users run it: the built
// program, with flags, on free ports and a temporary data folder. It can be
// killed at any moment and started again on what it left.
package hfidtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// folder holds the built program. It is set for as long as Main runs.
var folder string

// Main is what a package's TestMain returns to os.Exit:
//
//	func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }
//
// It runs the tests, and deletes what was built for them.
func Main(m *testing.M) (code int) {
	made, err := os.MkdirTemp("", "hfid-test-")
	if err != nil {
		fmt.Fprintf(os.Stderr, "making a folder for the built daemon: %v\n", err)
		return 1
	}
	defer os.RemoveAll(made)
	folder = made
	return m.Run()
}

var build = sync.OnceValues(func() (string, error) { return compile("hfid") })

// Binary is the daemon's program, built once for all tests of the process.
func Binary(t testing.TB) string {
	t.Helper()
	return built(t, build)
}

var buildClient = sync.OnceValues(func() (string, error) { return compile("hfi") })

// Client is the hfi command, built once for all tests of the process.
func Client(t testing.TB) string {
	t.Helper()
	return built(t, buildClient)
}

var buildModule = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "filter.wasm")
	return path, CompileModule(path)
})

// Module is the filter's Wasm module, built once for all tests of the process.
func Module(t testing.TB) string {
	t.Helper()
	return built(t, buildModule)
}

var buildTrapModule = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "trap.wasm")
	return path, CompileModule(path, "hfi_trap")
})

// TrapModule is the filter's module with a weakness: a request with the header
// x-hfi-trap ends the VM, if there is a policy in force, and one with the header
// x-hfi-panic makes it panic from then on, at the request, delay or answer that it names.
func TrapModule(t testing.TB) string {
	t.Helper()
	return built(t, buildTrapModule)
}

// CompileModule builds the filter's Wasm module into a file, as "make filter"
// does, with Go build tags.
func CompileModule(path string, tags ...string) error {
	raw := path + ".raw"
	defer os.Remove(raw)
	compiler := exec.Command("go", "build", "-buildmode=c-shared", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-tags", strings.Join(tags, ","), "-o", raw, "./filter")
	compiler.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	linker := exec.Command("go", "run", "./filter/link", "-o", path, raw)
	for _, command := range []*exec.Cmd{compiler, linker} {
		command.Dir = testtool.Root()
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("building the filter by %q: %w\n%s", command.Args, err, out)
		}
	}
	return nil
}

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	testtool.NoteSources(t)
	if folder == "" {
		t.Fatal("the package's TestMain must call hfidtest.Main, which deletes what is built")
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func compile(name string) (string, error) {
	path := filepath.Join(folder, name)
	// To leave symbols out spares a third of the linker's time.
	command := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./cmd/"+name)
	command.Dir = testtool.Root()
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return path, nil
}
