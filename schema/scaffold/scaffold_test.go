package scaffold_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema/scaffold"
)

func TestWriteOverwritesNothing(t *testing.T) {
	folder := t.TempDir()
	mine := filepath.Join(folder, "policies", "checkout-latency.yaml")
	if err := os.Mkdir(filepath.Dir(mine), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := scaffold.Write(folder)
	if err == nil || !strings.Contains(err.Error(), mine) {
		t.Fatalf("the error is %v, want one that names %s", err, mine)
	}
	left, _ := os.ReadDir(folder)
	text, _ := os.ReadFile(mine)
	if len(left) != 1 || string(text) != "mine" {
		t.Errorf("the folder contains %v, and the file %q", left, text)
	}
}

// A README is nearly everywhere: it is kept, and the rest is written.
func TestWriteKeepsAReadme(t *testing.T) {
	folder := t.TempDir()
	mine := filepath.Join(folder, scaffold.Readme)
	if err := os.WriteFile(mine, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	kept, err := scaffold.Write(folder)
	if err != nil || !kept {
		t.Fatalf("kept %t, %v", kept, err)
	}
	text, _ := os.ReadFile(mine)
	if _, err := os.Stat(filepath.Join(folder, scaffold.SchemaFile)); err != nil || string(text) != "mine" {
		t.Errorf("the README is %q; the schema: %v", text, err)
	}
}

func TestScaffoldIsFormatted(t *testing.T) {
	folder := t.TempDir()
	if _, err := scaffold.Write(folder); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(testtool.Path(t, "cue"), "fmt", "--check", "./...", "./cue.mod/module.cue", scaffold.SchemaFile, scaffold.LimitsFile)
	command.Dir = folder
	if output, err := command.CombinedOutput(); err != nil {
		t.Errorf("cue fmt --check: %v\n%s", err, output)
	}
}
