package cue

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// stock runs the cue command, the reference for every verdict.
type stock struct {
	t   testing.TB
	cue string
	// schema is the path of the schema.
	schema string
}

func newStock(t testing.TB) *stock {
	return &stock{t: t, cue: testtool.Path(t, "cue"), schema: filepath.Join(testtool.Root(), "schema", "policy.cue")}
}

// run runs cue in a folder, without a registry, and reports whether it succeeded.
func (s *stock) run(dir string, arguments ...string) (bool, string) {
	s.t.Helper()
	command := exec.Command(s.cue, arguments...)
	command.Dir = dir
	command.Env = append(os.Environ(), "CUE_REGISTRY=none", "CUE_CACHE_DIR="+os.TempDir())
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatalf("running cue: %v", err)
	}
	return err == nil, output.String()
}

// file returns the verdict on a YAML or JSON file.
func (s *stock) file(path string) (bool, string) {
	s.t.Helper()
	return s.run(filepath.Dir(path), "vet", "-c", "-d", "#Policy", s.schema, filepath.Base(path))
}

// packages returns the verdict on the packages below a folder of a repository.
func (s *stock) packages(repository, policyPath string) (bool, string) {
	s.t.Helper()
	return s.run(repository, "vet", "-c", "./"+policyPath+"/...")
}

// lay writes files, a module and the schema into a folder.
func lay(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	write(t, dir, "cue.mod/module.cue", testModule)
	write(t, dir, schemaFile, schema.CUE)
	for name, text := range files {
		write(t, dir, name, text)
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// ask returns stock cue's verdict on a sample.
func (s *stock) ask(sample sample) (bool, string) {
	s.t.Helper()
	dir := s.t.TempDir()
	lay(s.t, dir, map[string]string{"policies/" + sample.file: sample.text})
	if sample.isCUE() {
		return s.packages(dir, "policies")
	}
	return s.file(filepath.Join(dir, "policies", sample.file))
}
