package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"

	"github.com/boifi/hfi/internal/testtool"
)

// sourceFile is a file of the project, as module zip files want it.
type sourceFile string

func (f sourceFile) Path() string                 { return string(f) }
func (f sourceFile) Lstat() (os.FileInfo, error)  { return os.Lstat(f.file()) }
func (f sourceFile) Open() (io.ReadCloser, error) { return os.Open(f.file()) }
func (f sourceFile) file() string                 { return filepath.Join(testtool.Root(), string(f)) }

// moduleProxy makes a folder that serves this working tree as a version of
// hfi's module, and gives its URL.
func moduleProxy(t *testing.T, version string) string {
	t.Helper()
	proxy := t.TempDir()
	folder := filepath.Join(proxy, filepath.FromSlash(modulePath), "@v")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	var files []zip.File
	for _, name := range sourceFiles(t) {
		files = append(files, sourceFile(name))
	}
	packed, err := os.Create(filepath.Join(folder, version+".zip"))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	// It refuses what no proxy would take, such as names that differ in case alone.
	if err := zip.Create(packed, module.Version{Path: modulePath, Version: version}, files); err != nil {
		t.Fatalf("packing the module: %v", err)
	}
	for name, content := range map[string][]byte{
		"list":            []byte(version + "\n"),
		version + ".mod":  read(t, filepath.Join(testtool.Root(), "go.mod")),
		version + ".info": fmt.Appendf(nil, `{"Version": %q, "Time": %q}`, version, at.Format(time.RFC3339)),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return "file://" + filepath.ToSlash(proxy)
}

// Somebody without a clone installs the command line by "go install", from
// what a module proxy has of it: nothing in go.mod is in the way, all files
// that are compiled in are there, and it knows its version from its module.
// The other modules come from this machine's cache, which is a proxy too.
func TestGoInstall(t *testing.T) {
	testtool.SlowOnly(t)
	testtool.NoteSources(t)
	const version = "v1.2.3"
	cache, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	downloads := filepath.Join(strings.TrimSpace(string(cache)), "cache", "download")
	work, programs := t.TempDir(), t.TempDir()
	shell(t, work, "go install "+modulePath+"/cmd/hfi@"+version, environment(
		"GOPROXY="+moduleProxy(t, version)+",file://"+filepath.ToSlash(downloads)+",off",
		// No checksum database knows this version.
		"GOSUMDB=off", "GONOSUMDB=", "GOPRIVATE=", "GONOPROXY=",
		"GOBIN="+programs, "GOMODCACHE="+t.TempDir(),
		// With -trimpath and without cgo Go's cache has most packages: a release is built so.
		"GOFLAGS=-modcacherw -trimpath", "CGO_ENABLED=0", "GOWORK=off"))

	want := fmt.Sprintf("hfi %s (commit unknown, %s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	run := environment("PATH=" + programs + ":" + os.Getenv("PATH"))
	for _, command := range []string{"hfi version", "hfi --version"} {
		if got := shell(t, work, command, run); got != want {
			t.Errorf("%s is %q, want %q", command, got, want)
		}
	}
	// The schema and the files of a new repository are compiled in.
	shell(t, work, "hfi init policies && hfi vet policies", run)
}
