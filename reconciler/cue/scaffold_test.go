package cue_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/schema/scaffold"
)

// workflow runs the commands of the workflow, except those that install programs.
func workflow(t *testing.T, folder string) error {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, ".github/workflows/policies.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Jobs map[string]struct {
			Steps []struct{ Name, Run string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, step := range file.Jobs["vet"].Steps {
		if step.Run == "" || strings.HasPrefix(step.Run, "go install") {
			continue
		}
		ran++
		// As on GitHub's runners.
		command := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step.Run)
		command.Dir = folder
		command.Env = append(os.Environ(), "PATH="+filepath.Dir(testtool.Path(t, "cue"))+":"+os.Getenv("PATH"))
		if output, err := command.CombinedOutput(); err != nil {
			t.Logf("%s: %v\n%s", step.Name, err, output)
			return err
		}
	}
	if ran != 2 {
		t.Fatalf("the workflow has %d steps that validate files, want 2", ran)
	}
	return nil
}

func valid(t *testing.T, folder string) bool {
	t.Helper()
	verdict, err := cue.Dir(t.Context(), folder, "policies", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range verdict.Errors {
		t.Log(problem)
	}
	return len(verdict.Errors) == 0
}

// TestWorkflowAndDaemonAgreeOnTheScaffold checks that the files of hfi init pass
// their workflow and hfi's validation, and that an invalid file of either kind
// fails both, whatever its name.
func TestWorkflowAndDaemonAgreeOnTheScaffold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(folder string) error
		valid  bool
	}{
		{"as it is written", func(string) error { return nil }, true},
		{"a broken YAML file", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "policies/checkout-latency.yaml"), []byte("metadata: {name: x}\nspec: {rules: [{fault: {percentage: 150, delay_ms: 1}}]}\n"), 0o644)
		}, false},
		{"a broken JSON file with a space in its name", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "policies/a b.json"), []byte(`{"metadata":{"name":"Bad_Name"}}`), 0o644)
		}, false},
		{"a broken CUE package", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "policies/outage/more.cue"), []byte("package outage\n\npolicies: \"cart-outage\": spec: rules: [{fault: delay_ms: -1}]\n"), 0o644)
		}, false},
		{"a broken shared definition", func(folder string) error {
			return os.WriteFile(filepath.Join(folder, "policies/shared/more.cue"), []byte("package shared\n\n#Outage: rule: fault: abort: status: 999\n"), 0o644)
		}, false},
		{"no YAML left", func(folder string) error { return os.Remove(filepath.Join(folder, "policies/checkout-latency.yaml")) }, true},
		{"no CUE left", func(folder string) error {
			if err := os.RemoveAll(filepath.Join(folder, "policies/shared")); err != nil {
				return err
			}
			return os.RemoveAll(filepath.Join(folder, "policies/outage"))
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			if _, err := scaffold.Write(folder); err != nil {
				t.Fatal(err)
			}
			if err := c.change(folder); err != nil {
				t.Fatal(err)
			}
			if passed := workflow(t, folder) == nil; passed != c.valid {
				t.Errorf("the workflow passes: %v, want %v", passed, c.valid)
			}
			if passed := valid(t, folder); passed != c.valid {
				t.Errorf("hfi accepts it: %v, want %v", passed, c.valid)
			}
		})
	}
}
