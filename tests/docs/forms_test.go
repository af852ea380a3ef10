package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/boifi/hfi/internal/testtool"
)

// form is the part of GitHub's issue form schema that is used here.
type form struct {
	Name        string   `yaml:"name"`
	Description string   `yaml:"description"`
	Labels      []string `yaml:"labels"`
	Body        []struct {
		Type       string `yaml:"type"`
		ID         string `yaml:"id"`
		Attributes struct {
			Label       string `yaml:"label"`
			Description string `yaml:"description"`
			Value       string `yaml:"value"`
			Render      string `yaml:"render"`
		} `yaml:"attributes"`
		Validations struct {
			Required bool `yaml:"required"`
		} `yaml:"validations"`
	} `yaml:"body"`
}

func decode(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.Open(filepath.Join(testtool.Root(), ".github", file))
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	decoder := yaml.NewDecoder(text)
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// GitHub shows an empty issue, without an error, for a form that it cannot read.
func TestIssueForms(t *testing.T) {
	for _, file := range []string{"bug.yml", "feature.yml"} {
		var f form
		decode(t, "ISSUE_TEMPLATE/"+file, &f)
		if f.Name == "" || f.Description == "" || len(f.Body) == 0 {
			t.Errorf("%s lacks its name, its description or its body", file)
		}
		var ids []string
		required := false
		for i, field := range f.Body {
			switch field.Type {
			case "markdown":
				if field.Attributes.Value == "" || field.ID != "" {
					t.Errorf("%s, field %d: markdown has a value and no id", file, i)
				}
			case "textarea", "input":
				if field.Attributes.Label == "" || field.ID == "" || slices.Contains(ids, field.ID) {
					t.Errorf("%s, field %d: it lacks a label or a unique id", file, i)
				}
				ids = append(ids, field.ID)
				required = required || field.Validations.Required
			default:
				t.Errorf("%s, field %d: there is no type %q", file, i, field.Type)
			}
		}
		if !required {
			t.Errorf("%s asks for nothing", file)
		}
	}
}

// CI does what a developer does, with actions of a fixed version.
func TestWorkflow(t *testing.T) {
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct {
				Uses string `yaml:"uses"`
				Run  string `yaml:"run"`
			} `yaml:"steps"`
		} `yaml:"jobs"`
	}
	text, err := os.ReadFile(filepath.Join(testtool.Root(), ".github", "workflows", "ci.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &workflow); err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`^[\w-]+/[\w-]+@v\d+\.\d+\.\d+$`)
	runs := false
	for _, job := range workflow.Jobs {
		for _, step := range job.Steps {
			if step.Uses != "" && !pinned.MatchString(step.Uses) {
				t.Errorf("%s has no fixed version", step.Uses)
			}
			runs = runs || strings.HasSuffix(step.Run, " .ci/run")
		}
	}
	if !runs || !tree(t)[".ci/run"] {
		t.Error("CI does not run .ci/run")
	}
}
