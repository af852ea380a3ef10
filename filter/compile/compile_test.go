package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/boifi/hfi/internal/testtool"
)

func TestEmpty(t *testing.T) {
	const source = `package p

import (
	"fmt"
	tables "unicode"
	_ "unsafe"
	"strings"
)

//go:nosplit
func none() { fmt.Println() }

func one() string {
	return strings.ToUpper("x")
}

func (t *T) two(a int) (int, map[string]bool) { return 1, nil }

func (t T) named() (n int, err error) { return 1, nil }

func kept() { strings.ToLower("x"); tables.IsUpper('x') }

func init() { fmt.Println() }
`
	const want = `package p

import (
	_ "fmt"
	tables "unicode"
	_ "unsafe"
	"strings"
)

//go:nosplit
func none() { ; return }

func one() (result0 string) { throw("x y"); return }

func (t *T) two(a int) (result0 int, result1 map[string]bool) { ; return }

func (t T) named() (n int, err error) { ; return }

func kept() { strings.ToLower("x"); tables.IsUpper('x') }

func init() { ; return }
`
	wanted := map[string]*function{}
	for _, f := range functions(`
		p none
		p one throw("x y")
		p (*T).two
		p T.named
		p init@file.go
		p missing
	`) {
		wanted[f.name] = &f
	}
	got, err := empty([]byte(source), "file.go", wanted)
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s", err, got)
	}
	for name, f := range wanted {
		if f.found != (name != "missing") {
			t.Errorf("%s is found: %v", name, f.found)
		}
	}
	if got, err := empty([]byte(source), "other.go", map[string]*function{"init@file.go": {name: "init@file.go"}}); got != nil || err != nil {
		t.Errorf("a file without the function: %q, %v", got, err)
	}
	if _, err := empty([]byte("package p\nfunc assembly()\n"), "file.go", map[string]*function{"assembly": {name: "assembly"}}); err == nil {
		t.Error("a function without a body is replaced")
	}
}

// TestUnusedFunctionsExist checks unused.go against the sources of this version of Go.
func TestUnusedFunctionsExist(t *testing.T) {
	goroot, err := root(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (toolchain{goroot}).overlay(t.TempDir(), unused); err != nil {
		t.Error(err)
	}
	for _, g := range unused {
		if g.why == "" || len(g.functions) == 0 {
			t.Errorf("a group lacks its reason or its functions: %+v", g)
		}
	}
}

func TestARenamedFunctionIsAnError(t *testing.T) {
	goroot, err := root(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for list, want := range map[string]string{
		"runtime renamed":                "runtime has no function renamed",
		"os (*File).renamed\nos NewFile": "os has no function (*File).renamed",
		"os NewFile\nos NewFile":         "os.NewFile is listed twice",
	} {
		if _, err := (toolchain{goroot}).overlay(t.TempDir(), []group{{"test", functions(list)}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", list, err, want)
		}
	}
}

// TestAnotherVersionOfGoIsAnError checks that functions are replaced only in the minor version of
// Go for which their callers have been read.
func TestAnotherVersionOfGoIsAnError(t *testing.T) {
	for version, right := range map[string]bool{
		reviewed: true, reviewed + ".8": true, reviewed + ".8 X:nodwarf5": true, reviewed + "rc1": false,
		reviewed + "9": false, reviewed + "9.1": false, "go1.2": false, "go1.999.1": false, "devel go1.27-0a1b2c": false, "": false,
	} {
		err := review(version)
		if (err == nil) != right || !right && !strings.Contains(err.Error(), "unused.go") {
			t.Errorf("%q: %v", version, err)
		}
	}
	// A toolchain that says it is of another version.
	folder := t.TempDir()
	if err := os.Mkdir(filepath.Join(folder, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "bin", "go"), []byte("#!/bin/sh\necho go1.999.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := (toolchain{folder}).overlay(t.TempDir(), unused); err == nil || !strings.Contains(err.Error(), "this is go1.999.1") {
		t.Errorf("the functions are replaced in another version: %v", err)
	}
}

// TestFunctionsThatMustNotBeUsed checks that a program that uses what unused.go leaves out of
// sync says so, and does not go on without it.
func TestFunctionsThatMustNotBeUsed(t *testing.T) {
	goroot, err := root(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	build, folder := toolchain{goroot}, t.TempDir()
	overlay, err := build.overlay(folder, unused)
	if err != nil {
		t.Fatal(err)
	}
	source, out := filepath.Join(folder, "main.go"), filepath.Join(folder, "out.wasm")
	if err := os.WriteFile(source, []byte(`package main

import "sync"

func main() {
	defer func() { println(recover().(string)) }()
	sync.OnceFunc(func() { println("done") })()
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := build.run("build", "-overlay", overlay, "-o", out, source); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	runtime := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	defer runtime.Close(t.Context())
	wasi_snapshot_preview1.MustInstantiate(t.Context(), runtime)
	var printed strings.Builder
	if _, err := runtime.InstantiateWithConfig(t.Context(), module, wazero.NewModuleConfig().WithStderr(&printed)); err != nil {
		t.Error(err)
	}
	if want := "the filter must not use sync.OnceFunc\n"; printed.String() != want {
		t.Errorf("the program printed %q, want %q", printed.String(), want)
	}
}

// TestAToolchainInTheModuleCache checks the toolchains that the go command downloads.
func TestAToolchainInTheModuleCache(t *testing.T) {
	outside, err := root(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if resolved, err := filepath.EvalSymlinks(outside); err != nil || resolved != outside {
		t.Skipf("the toolchain is %s, %v", resolved, err)
	}
	t.Setenv("GOMODCACHE", filepath.Dir(outside))
	linked, err := root(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if resolved, err := filepath.EvalSymlinks(linked); err != nil || linked == outside || resolved != outside {
		t.Errorf("%s leads to %s (%v), want another name of %s", linked, resolved, err, outside)
	}
	file, err := (toolchain{linked}).overlay(t.TempDir(), []group{{"test", functions("os NewFile")}})
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(overlay), filepath.Join(linked, "src", "os")) {
		t.Errorf("%s, %v", overlay, err)
	}
}

// TestImports checks which functions of WASI the module imports. Envoy 1.32 has no others
// that Go would need, and those that it has do not all work while a VM starts.
func TestImports(t *testing.T) {
	t.Chdir(testtool.Root())
	out := filepath.Join(t.TempDir(), "filter.wasm")
	if err := compile(out, "", "-s -w"); err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	runtime := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	defer runtime.Close(t.Context())
	compiled, err := runtime.CompileModule(t.Context(), module)
	if err != nil {
		t.Fatal(err)
	}
	var imports []string
	for _, f := range compiled.ImportedFunctions() {
		if from, name, _ := f.Import(); from == "wasi_snapshot_preview1" {
			imports = append(imports, name)
		}
	}
	slices.Sort(imports)
	if want := []string{"clock_time_get", "fd_write", "proc_exit", "random_get"}; !slices.Equal(imports, want) {
		t.Errorf("the module imports %q, want %q", imports, want)
	}
}

// TestSizes checks that the printed sizes are those of the module.
func TestSizes(t *testing.T) {
	t.Chdir(testtool.Root())
	var printed, said strings.Builder
	if code := run([]string{"-sizes"}, &printed, &said); code != 0 {
		t.Fatal(said.String())
	}
	for _, want := range []string{" bytes of code\n", " runtime\n", " runtime.gcMarkTermination\n", " main\n"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, printed.String())
		}
	}
	for _, module := range []string{"", "\x00asm\x01\x00\x00\x00", "\x00asm\x01\x00\x00\x00\x0a\x05\x01"} {
		if sizes, err := functionSizes([]byte(module)); err == nil {
			t.Errorf("%q has sizes %v", module, sizes)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"-o", "x", "y"}, {"-unknown"}, {"-o", "x", "-sizes"}} {
		var said strings.Builder
		if code := run(args, io.Discard, &said); code != 1 || !strings.Contains(said.String(), "usage: compile") {
			t.Errorf("%q: exit code %d, %q", args, code, said.String())
		}
	}
}

// TestAnOverlayOfTheEnvironmentCounts checks that a build with another overlay, as tests of tests
// use, compiles what that replaces.
func TestAnOverlayOfTheEnvironmentCounts(t *testing.T) {
	folder := t.TempDir()
	given := filepath.Join(folder, "given.json")
	if err := os.WriteFile(given, []byte(`{"Replace": {"/a/mutated.go": "/b/mutated.go"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-mod=mod -overlay="+given)
	replaced, err := replacedBefore()
	if err != nil || replaced["/a/mutated.go"] != "/b/mutated.go" {
		t.Errorf("replaced are %v, %v", replaced, err)
	}
	t.Setenv("GOFLAGS", "-overlay="+given+".missing")
	if _, err := replacedBefore(); err == nil {
		t.Error("an overlay that is missing is no error")
	}
}
