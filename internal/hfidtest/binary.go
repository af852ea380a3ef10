// Package hfidtest runs the daemon for tests as users run it: the built program
// with flags, free ports and a temporary data folder. Tests can kill it at any
// moment and restart it with the same folder.
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

// folder has the built programs. It is set while Main runs.
var folder string

// Main runs a package's tests and deletes what was built for them. TestMain
// passes its result to os.Exit:
//
//	func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }
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

// Binary returns the daemon's program, built once for all tests of the process.
func Binary(t testing.TB) string {
	t.Helper()
	return built(t, build)
}

var buildClient = sync.OnceValues(func() (string, error) { return compile("hfi") })

// Client returns the hfi command, built once for all tests of the process.
func Client(t testing.TB) string {
	t.Helper()
	return built(t, buildClient)
}

var buildModule = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "filter.wasm")
	return path, CompileModule(path)
})

// Module returns the filter's Wasm module, built once for all tests of the process.
func Module(t testing.TB) string {
	t.Helper()
	return built(t, buildModule)
}

var buildTrapModule = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "trap.wasm")
	return path, CompileModule(path, "hfi_trap")
})

// TrapModule returns the filter's module with defects: a request with the header
// x-hfi-trap ends the VM, if it has a policy, and one with the header x-hfi-panic
// makes it panic from then on, at the request, delay or answer that it names.
func TrapModule(t testing.TB) string {
	t.Helper()
	return built(t, buildTrapModule)
}

// CompileModule builds the filter's Wasm module into a file with Go build tags,
// like "make filter".
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
		t.Fatal("the package's TestMain must call hfidtest.Main, which deletes the built programs")
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
