// Package hfidtest runs the daemon for tests as users run it: the built program
// with flags, free ports and a temporary data folder. Tests can kill it at any
// moment and restart it with the same folder.
package hfidtest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/lockedfile"

	"github.com/boifi/hfi/internal/statekey"
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
	return kept("filter.wasm", func(path string) error { return CompileModule(path) })
})

// Module returns the filter's Wasm module, built once for all tests of the process.
func Module(t testing.TB) string {
	t.Helper()
	return built(t, buildModule)
}

var buildTrapModule = sync.OnceValues(func() (string, error) {
	return kept("trap.wasm", func(path string) error { return CompileModule(path, "hfi_trap") })
})

// TrapModule returns the filter's module with defects: a request with the header
// x-hfi-trap ends the VM, if it has a policy, and one with the header x-hfi-panic
// makes it panic from then on, at the request, delay or answer that it names. One
// with the header x-hfi-collect makes the VM collect garbage as often as it can from then
// on; Collections counts that.
func TrapModule(t testing.TB) string {
	t.Helper()
	return built(t, buildTrapModule)
}

var collections = regexp.MustCompile(`hfi: vm=(\w+) has collected garbage (\d+) times`)

// Collections returns the number of garbage collections in the VMs with TrapModule that
// an Envoy's log names.
func Collections(log string) (all int) {
	last := map[string]int{}
	for _, line := range collections.FindAllStringSubmatch(log, -1) {
		last[line[1]], _ = strconv.Atoi(line[2])
	}
	for _, n := range last {
		all += n
	}
	return all
}

// CompileModule builds the filter's Wasm module into a file with Go build tags,
// like "make filter".
func CompileModule(path string, tags ...string) error {
	raw := path + ".raw"
	defer os.Remove(raw)
	compiler := exec.Command("go", "run", "./filter/compile", "-tags", strings.Join(tags, ","), "-o", raw)
	// The rewriter would write into the file that other processes have a link to.
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
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

var stateKey = sync.OnceValues(func() (string, error) {
	path := filepath.Join(folder, "state-key")
	_, err := statekey.OpenOrCreate(path)
	return path, err
})

// StateKeyFile returns the file with the state key of all daemons of the process
// that have an external etcd.
func StateKeyFile(t testing.TB) string {
	t.Helper()
	return built(t, stateKey)
}

func compile(name string) (string, error) {
	return kept(name, func(path string) error {
		// To leave symbols out spares a third of the linker's time.
		command := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "./cmd/"+name)
		command.Dir = testtool.Root()
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		return nil
	})
}

// kept builds a file in bin/tests and returns the name that it has in this
// process's folder. What is there already and up to date is not linked again:
// the tests of several packages use the same programs.
func kept(name string, build func(path string) error) (string, error) {
	shared := filepath.Join(testtool.Root(), "bin", "tests", name)
	if err := os.MkdirAll(filepath.Dir(shared), 0o755); err != nil {
		return "", err
	}
	unlock, err := lockedfile.MutexAt(shared + ".lock").Lock()
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := build(shared); err != nil {
		return "", err
	}
	// Under its own name the file stays what it is when changed sources replace the shared one.
	own := filepath.Join(folder, name)
	if os.Link(shared, own) == nil {
		return own, nil
	}
	from, err := os.Open(shared) // a temporary folder on another file system
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.OpenFile(own, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	return own, errors.Join(err, to.Close())
}
