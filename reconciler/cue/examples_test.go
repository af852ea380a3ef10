package cue_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/schema/scaffold"
)

// TestExamplePolicies checks that the example policies are valid for stock cue and
// for hfi, and counts them.
func TestExamplePolicies(t *testing.T) {
	folder := t.TempDir()
	if _, err := scaffold.Write(folder); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(folder, "policies")); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(filepath.Join(folder, "policies"), os.DirFS(filepath.Join(testtool.Root(), "policies"))); err != nil {
		t.Fatal(err)
	}
	data, _ := filepath.Glob(filepath.Join(folder, "policies", "*.[yj]*"))
	stock := func(args ...string) {
		t.Helper()
		command := exec.Command(testtool.Path(t, "cue"), args...)
		command.Dir = folder
		if output, err := command.CombinedOutput(); err != nil {
			t.Errorf("cue %v: %v\n%s", args, err, output)
		}
	}
	stock(append([]string{"vet", "-c", "-d", "#Policy", scaffold.SchemaFile}, data...)...)
	stock("vet", "-c", "./policies/...")
	stock("fmt", "--check", "./policies/...")

	verdict, err := cue.Dir(t.Context(), folder, "policies", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range append(verdict.Errors, verdict.Warnings...) {
		t.Error(problem)
	}
	if verdict.Set == nil || verdict.Set.Len() != len(data)+3 {
		t.Fatalf("the examples are %v, want %d policies", verdict.Set, len(data)+3)
	}
	for _, entry := range verdict.Set.Entries() {
		t.Logf("%s from %s:%d", entry.Name(), entry.Origin.File, entry.Origin.Line)
	}
}
