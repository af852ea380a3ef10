package chaos

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// set is a set of policies in a comparable form: JSON with sorted keys and numbers in one form.
// It is empty for an invalid set.
type set string

func setOf(policies map[string]any) set {
	text, err := json.Marshal(policies)
	if err != nil {
		panic(err)
	}
	return set(text)
}

// differences describes how a set differs from the expected one.
func (s set) differences(want set) string {
	var has, wants map[string]any
	for text, into := range map[set]*map[string]any{s: &has, want: &wants} {
		if text != "" {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				panic(err)
			}
		}
	}
	var lines []string
	for name, policy := range has {
		switch wanted, ok := wants[name]; {
		case !ok:
			lines = append(lines, "  too many: "+name)
		case !reflect.DeepEqual(policy, wanted):
			lines = append(lines, fmt.Sprintf("  wrong: %s is %v, and should be %v", name, policy, wanted))
		}
	}
	for name := range wants {
		if _, ok := has[name]; !ok {
			lines = append(lines, "  missing: "+name)
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d policies, %d wanted:\n%s", len(has), len(wants), strings.Join(lines[:min(20, len(lines))], "\n"))
}

// oracle has, for each tree that commits are made of, the set that a daemon has to serve
// according to the stock cue.
type oracle struct {
	// trees has git's hashes of all trees, valid those of the valid ones.
	trees, valid []string
	sets         map[string]set
	// values has the policies of the valid trees, for writes to etcd.
	values []string
}

const schemaInModule = "cue.mod/pkg/github.com/boifi/hfi/schema/policy.cue"

// newOracle makes trees in the repository's work tree and validates each with cue.
func newOracle(t *testing.T, repo *gittest.Repo, random *rand.Rand, count int) *oracle {
	t.Helper()
	schema, err := os.ReadFile(filepath.Join(testtool.Root(), "schema", "policy.cue"))
	if err != nil {
		t.Fatal(err)
	}
	o := &oracle{sets: map[string]set{}}
	for number := range count {
		files := makeTree(random, number)
		for _, folder := range []string{"policies", "other"} {
			if err := os.RemoveAll(filepath.Join(repo.Work(), folder)); err != nil {
				t.Fatal(err)
			}
		}
		if len(files) > 0 {
			files["cue.mod/module.cue"] = "module: \"example.com/policies\"\nlanguage: version: \"v0.17.0\"\n"
			files[schemaInModule] = string(schema)
		}
		written := map[string]string{"other/readme": fmt.Sprintf("tree %d\n", number)}
		for name, content := range files {
			written["policies/"+name] = content
		}
		repo.Write(written)
		repo.Git("add", "-A", ".")
		tree := repo.Git("write-tree")
		o.trees = append(o.trees, tree)
		if len(files) == 0 {
			// A commit that removes the folder has no policies.
			o.sets[tree] = setOf(map[string]any{})
			continue
		}
		policies := judge(t, filepath.Join(repo.Work(), "policies"))
		o.sets[tree] = ""
		if policies != nil {
			o.sets[tree] = setOf(policies)
			o.valid = append(o.valid, tree)
			for _, policy := range policies {
				text, _ := json.Marshal(policy)
				o.values = append(o.values, string(text))
			}
		}
	}
	// About two thirds are, and the share varies with the seed.
	if len(o.valid) < count/4 || len(o.valid) == count {
		t.Fatalf("%d of %d trees are valid: the test's generator or cue has changed", len(o.valid), count)
	}
	return o
}

func (o *oracle) expected(tree string) set { return o.sets[tree] }

// judge returns cue's result for a folder of policies: the policies by name, or nil if
// anything in it is invalid.
func judge(t *testing.T, folder string) map[string]any {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.yaml", "*/*.yaml", "*.json"} {
		found, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if _, ok := cue(t, folder, append([]string{"vet", "-c", "-d", "#Policy", schemaInModule}, files...)...); !ok {
		return nil
	}
	policies := map[string]any{}
	text, ok := cue(t, folder, append([]string{"export", "--out", "json", "-l", "metadata.name"}, files...)...)
	if !ok {
		return nil // Two different policies with one name.
	}
	if err := json.Unmarshal(text, &policies); err != nil {
		t.Fatal(err)
	}
	if len(policies) != len(files) {
		return nil // Two equal policies with one name, which cue accepts.
	}
	if _, err := os.Stat(filepath.Join(folder, "generated")); err != nil {
		return policies
	}
	if _, ok := cue(t, folder, "vet", "-c", "./..."); !ok {
		return nil
	}
	text, ok = cue(t, folder, "export", "--out", "json", "-e", "policies", "./generated")
	if !ok {
		t.Fatal("cue vet accepts a package that cue export does not")
	}
	generated := map[string]any{}
	if err := json.Unmarshal(text, &generated); err != nil {
		t.Fatal(err)
	}
	for name, policy := range generated {
		if policies[name] != nil {
			return nil
		}
		policies[name] = policy
	}
	return policies
}

// cue runs the stock cue command, and reports whether it succeeded.
func cue(t *testing.T, folder string, arguments ...string) ([]byte, bool) {
	t.Helper()
	command := exec.Command(testtool.Path(t, "cue"), arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), "CUE_REGISTRY=none")
	out, err := command.Output()
	return out, err == nil
}
