// Package mutation shows that the tests of hfi's promises can fail: for each
// mutation, which removes one check from the source, a named test must fail. (The
// tests of reconciler/cue do this for the constraints of the schema.)
package mutation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// limit bounds one run of go test, its compilation included.
const limit = 5 * time.Minute

// mutation is a change of one line that a test must notice.
type mutation struct {
	// what is removed.
	what string
	// file, a path from the repository's root, contains old exactly once; new replaces it.
	file, old, new string
	// tests must fail. They are in the package of folder, a path from the root.
	folder string
	tests  []string
}

// The mutations match the current source and tests. This test is fast, so a change
// of a line with a mutation is noticed early.
func TestMutationsMatchTheSource(t *testing.T) {
	for _, m := range slices.Concat(mutations, onEnvoy) {
		t.Run(m.what, func(t *testing.T) {
			overlay(t, m)
			files, err := filepath.Glob(filepath.Join(testtool.Root(), cmp.Or(m.folder, "tests/envoy"), "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			var source strings.Builder
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(text)
			}
			for _, test := range m.tests {
				if !strings.Contains(source.String(), "\nfunc "+test+"(t *testing.T) {") {
					t.Errorf("there is no %s", test)
				}
			}
		})
	}
}

// A test that passes without the check that it tests is useless. This is checked
// for the promises, for selection, the draw, and the clean-up after a delay.
func TestRemovedChecksFailATest(t *testing.T) {
	testtool.SlowOnly(t)
	named := map[string][]string{}
	for _, m := range mutations {
		named[m.folder] = append(named[m.folder], m.tests...)
	}
	for folder, tests := range named {
		t.Run("without a mutation in "+folder, func(t *testing.T) {
			t.Parallel()
			if out, err := run(t, folder, tests, ""); err != nil {
				t.Fatalf("without a mutation the tests must pass: %v\n%s", err, out)
			}
		})
	}
	for _, m := range mutations {
		t.Run(m.what, func(t *testing.T) {
			t.Parallel()
			out, err := run(t, m.folder, m.tests, overlay(t, m))
			if err == nil {
				t.Fatalf("without %s, %s passes", m.what, strings.Join(m.tests, ", "))
			}
			if strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]") {
				t.Fatalf("the mutation does not compile, so it shows nothing:\n%s", out)
			}
			for _, test := range m.tests {
				if !regexp.MustCompile(`(?m)^--- FAIL: ` + test + `\b`).MatchString(out) {
					t.Errorf("without %s, %s does not fail:\n%s", m.what, test, out)
				}
			}
		})
	}
}

// The random test can fail too. Without the digest check and the check of who wrote
// the head, other clients' writes are served sooner or later, and the test's observer
// notices it.
func TestObserverNoticesARemovedDigestCheck(t *testing.T) {
	testtool.SlowOnly(t)
	digest := mutations[slices.IndexFunc(mutations, func(m mutation) bool { return m.what == "the digest check" })]
	head := mutation{file: "reconciler/etcd/signed.go", old: `record.KeyID, key.problem == nil`, new: `record.KeyID, record.Digest != ""`}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	command := exec.CommandContext(ctx, "go", "test", "-count=1", "-vet=off", "./tests/chaos")
	command.Dir = testtool.Root()
	// The test builds the daemon: the environment passes the overlay to that build.
	command.Env = append(os.Environ(), "GOFLAGS=-overlay="+overlay(t, digest, head), "HFI_CHAOS_KILLS=100")
	out, err := command.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "VIOLATION seen by") || !strings.Contains(string(out), "but the set differs") {
		t.Errorf("without the digest check, the observer must see a set of no commit (%v):\n%s", err, out)
	}
}

// overlay writes a file for go's -overlay flag with mutations, each of another file, and
// returns its path.
func overlay(t *testing.T, mutations ...mutation) string {
	t.Helper()
	folder, files := t.TempDir(), map[string]string{}
	write := func(name string, text []byte) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for i, m := range mutations {
		path := filepath.Join(testtool.Root(), m.file)
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if count := strings.Count(string(source), m.old); count != 1 {
			t.Fatalf("%s has %q %d times, want once: update the mutation", m.file, m.old, count)
		}
		files[path] = write(fmt.Sprintf("mutated%d.go", i), []byte(strings.Replace(string(source), m.old, m.new, 1)))
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": files})
	if err != nil {
		t.Fatal(err)
	}
	return write("overlay.json", replace)
}

// run runs tests of a folder, with an overlay unless that is empty. Each of them
// must exist.
func run(t *testing.T, folder string, tests []string, overlay string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	arguments := []string{"test", "-count=1", "-v", "-vet=off", "-timeout", (limit - 10*time.Second).String(), "-run", "^(" + strings.Join(tests, "|") + ")$"}
	if overlay != "" {
		arguments = append(arguments, "-overlay", overlay)
	}
	command := exec.CommandContext(ctx, "go", append(arguments, "./"+folder)...)
	command.Dir = testtool.Root()
	command.Env = append(os.Environ(), "HFI_SLOW=") // a short run is enough
	out, err := command.CombinedOutput()
	for _, test := range tests {
		if overlay == "" && err == nil && !strings.Contains(string(out), "=== RUN   "+test+"\n") {
			t.Errorf("%s has no %s", folder, test)
		}
	}
	return string(out), err
}
