package envoy

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// The module is reproducible: a build with make, from a copy of the sources in
// another folder and outside of any repository, has the same bytes as one that is
// built here. Everything is compiled without a cache, including the standard
// library.
func TestTheModuleIsReproducible(t *testing.T) {
	testtool.SlowOnly(t)
	t.Parallel()
	folder := t.TempDir()
	for _, name := range []string{"filter", "internal/api", "schema"} {
		if err := os.CopyFS(filepath.Join(folder, name), os.DirFS(filepath.Join(testtool.Root(), name))); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(testtool.Root(), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "make", "filter", "BIN=out")
	command.Dir = folder
	for _, setting := range os.Environ() {
		// The variables of a make that runs these tests must not affect this one.
		if name, _, _ := strings.Cut(setting, "="); name != "MAKEFLAGS" && name != "MAKELEVEL" && name != "MFLAGS" && name != "GOFLAGS" {
			command.Env = append(command.Env, setting)
		}
	}
	command.Env = append(command.Env, "GOCACHE="+filepath.Join(t.TempDir(), "cache"))
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("make filter: %v\n%s", err, out)
	}
	there, err := os.ReadFile(filepath.Join(folder, "out", "filter.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.ReadFile(hfidtest.Module(t))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(there, here) {
		t.Errorf("the builds differ: %d bytes there, %d here", len(there), len(here))
	}
	if bytes.Contains(here, []byte(testtool.Root())) || bytes.Contains(there, []byte(folder)) {
		t.Error("the module names the folder that it was built in")
	}
}
