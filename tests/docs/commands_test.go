package docs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// runElsewhere has the documents in docs/ whose commands another test runs.
var runElsewhere = map[string]string{
	"docs/releasing.md": "TestReleasesAreReproducible",
}

// situation is the problem that a command of a document is for: a script that
// causes it, and one that ends it.
type situation struct{ before, after string }

const (
	revert = `git revert --no-edit HEAD >/dev/null; git push -q; hfi wait HEAD`
	// The headers of a filter's VM, and the URL of its policies.
	vm  = `vm=(-sf -o /dev/null -H 'X-Hfi-Node: node-1' -H 'X-Hfi-Pod: frontend-1' -H 'X-Hfi-Vm: vm-1'); url="$HFI_SERVER/v1/policies?service=frontend&namespace=demo"; `
	ask = vm + `curl "${vm[@]}" "$url&wait=10s"`
	// A filter that has applied policies, as its second request on a connection says, and then stops asking.
	stopAsking = vm + `tag=$(curl -sf -o /dev/null -w '%header{etag}' "$url"); curl "${vm[@]}" "$url" --next "${vm[@]}" -H "If-None-Match: $tag" "$url&wait=1s"; until hfi get filters | grep -q Silent; do sleep 0.1; done`
)

// situations has the situations of a section by its heading, one for each block that needs one.
var situations = map[string][]situation{
	"A push changed nothing": {
		{`printf 'metadata: {name: bad}\nspec: {rules: [{fault: {delay_ms: fast}}]}\n' >policies/bad.yaml
git add .; git commit -q -m "Delay everything"; git push -q`, revert},
		{`for i in $(seq 12); do printf 'metadata: {name: old-%s}\nspec: {selector: {service: old}, rules: [{fault: {delay_ms: 5}}]}\n' "$i" >policies/old-"$i".yaml; done
git add .; git commit -q -m "Begin experiments"; git push -q; hfi wait HEAD
git rm -q 'policies/old-[2-9].yaml' 'policies/old-1?.yaml'; git commit -q -m "End experiments"; git push -q; hfi wait HEAD || [ $? = 7 ]`, ""},
	},
	"The commit is served, but no request is faulted": {{ask, ""}},
	"hfi wait does not return, or exits with 9":       {{stopAsking, ""}},
	"Drift is Detected": {{
		`etcdctl --endpoints "$(cat ../data/etcd-client-address)" put /hfi/policies/checkout-latency '{}' >/dev/null; until hfi status | grep -q 'Drift *Detected'; do sleep 0.1; done`,
		`git commit -q --allow-empty -m "Put etcd right"; git push -q; until hfi status --exit-code >/dev/null; do sleep 0.1; done`,
	}},
	"Git cannot be reached": {{
		`mv ../policies.git ../away.git; curl -sf -o /dev/null -X POST "$HFI_SERVER/v1/reconcile"; until hfi status | grep -q RepositoryMissing; do sleep 0.1; done`,
		`mv ../away.git ../policies.git; until hfi status --exit-code >/dev/null; do sleep 0.1; done`,
	}},
}

// Each command of a document under docs/ runs in a clone of a policy repository
// that a daemon follows, and prints the lines of the block that follows it, in that
// order.
func TestCommandsDoWhatThePagesSay(t *testing.T) {
	known := declarations(t).tests
	ran := 0
	for _, p := range pages(t) {
		if filepath.Dir(p.file) != "docs" {
			continue
		}
		if test, elsewhere := runElsewhere[p.file]; elsewhere {
			if known[test] == nil {
				t.Errorf("%s should run the commands of %s, but does not exist", test, p.file)
			}
			continue
		}
		blocks := p.blocks()
		if !slices.ContainsFunc(blocks, func(b block) bool { return b.language == "sh" }) {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(p.file), ".md"), func(t *testing.T) {
			w := newWorkplace(t)
			place := map[string]int{}
			for i, b := range blocks {
				if b.language != "sh" {
					continue
				}
				ran++
				var s situation
				if all := situations[b.heading]; place[b.heading] < len(all) {
					s = all[place[b.heading]]
				}
				place[b.heading]++
				w.must("causing the situation: "+b.heading, s.before)
				out, err := w.run(strings.ReplaceAll(b.content, "localhost:8080", strings.TrimPrefix(w.server, "http://")), false)
				t.Logf("%s\n%s%s", b.heading, b.content, out)
				if i+1 < len(blocks) && blocks[i+1].language == "text" && blocks[i+1].heading == b.heading {
					expect(t, b, out, blocks[i+1].content)
				} else if err != nil {
					t.Errorf("%s: %v", b.heading, err)
				}
				w.must("ending the situation: "+b.heading, s.after)
			}
		})
	}
	if ran < 8 {
		t.Errorf("only %d blocks of commands ran: are they still found?", ran)
	}
}

// expect checks that a block's output contains the wanted lines in order. An
// ellipsis matches anything, and a run of blanks any other.
func expect(t *testing.T, b block, out, wanted string) {
	t.Helper()
	rest := strings.Split(out, "\n")
	for line := range strings.Lines(wanted) {
		line = strings.Join(strings.Fields(line), " ")
		if line == "" {
			continue
		}
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "$")
		at := slices.IndexFunc(rest, func(said string) bool {
			return pattern.MatchString(strings.Join(strings.Fields(said), " "))
		})
		if at < 0 {
			t.Errorf("%s: the commands\n%sprint no line %q after those before it, but\n%s", b.heading, b.content, line, out)
			return
		}
		rest = rest[at+1:]
	}
}

// workplace is a clone of a policy repository, which a daemon follows.
type workplace struct {
	t              *testing.T
	folder, server string
	environment    []string
}

func newWorkplace(t *testing.T) *workplace {
	t.Helper()
	base := t.TempDir()
	w := &workplace{t: t, folder: filepath.Join(base, "clone"), environment: gittest.Environment()}
	bare := filepath.Join(base, "policies.git")
	w.environment = append(w.environment, "PATH="+strings.Join([]string{
		filepath.Dir(hfidtest.Binary(t)), filepath.Dir(hfidtest.Client(t)), filepath.Dir(testtool.Path(t, "etcdctl")), os.Getenv("PATH"),
	}, ":"))
	if err := os.Mkdir(w.folder, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("a policy repository", fmt.Sprintf(`hfi init .
git init -q --bare -b main %[1]s
git init -q -b main
git add .
git commit -q -m Begin
git remote add origin %[1]s
git push -q -u origin main`, bare))
	d := hfidtest.Run(t, bare, "--data-dir", filepath.Join(base, "data"))
	w.server = d.URL()
	w.environment = append(w.environment, "HFI_SERVER="+w.server, "HFID_LISTEN="+strings.TrimPrefix(w.server, "http://"))
	w.must("the first commit served", "hfi wait HEAD")
	return w
}

// must runs a script that must succeed.
func (w *workplace) must(what, script string) {
	w.t.Helper()
	if out, err := w.run(script, true); err != nil {
		w.t.Fatalf("%s: %v\n%s", what, err, out)
	}
}

// run runs a script in the clone. A strict one stops at the first command that fails.
func (w *workplace) run(script string, strict bool) (output string, err error) {
	return shell(w.t, w.folder, w.environment, script, strict)
}

// shell runs a script with bash in a folder, and kills the processes that it leaves running.
func shell(t *testing.T, folder string, environment []string, script string, strict bool) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*hfidtest.WaitLimit)
	defer cancel()
	if strict {
		script = "set -euo pipefail\n" + script
	}
	command := exec.CommandContext(ctx, "bash", "-c", script)
	command.Dir, command.Env = folder, environment
	child.OwnGroup(command)
	command.Cancel = func() error { return child.KillGroup(command.Process.Pid) }
	command.WaitDelay = 10 * time.Second
	out, err := command.CombinedOutput()
	if command.Process != nil {
		_ = command.Cancel()
	}
	return string(out), err
}

// The commands of CONTRIBUTING.md run in the repository's root. Those of make,
// which CI runs, are only checked with make's dry run.
func TestCommandsForContributorsRun(t *testing.T) {
	makeProgram, err := exec.LookPath("make")
	if err != nil {
		testtool.Lacks(t, "make is not installed")
	}
	programs := t.TempDir()
	if err := os.WriteFile(filepath.Join(programs, "make"), []byte("#!/bin/sh\nexec "+makeProgram+" -n \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(), "PATH="+programs+":"+os.Getenv("PATH"))
	ran := 0
	for _, b := range readPage(t, "CONTRIBUTING.md").blocks() {
		if b.language != "sh" {
			continue
		}
		ran++
		if out, err := shell(t, testtool.Root(), environment, b.content, true); err != nil {
			t.Errorf("%s: %v\n%s\n%s", b.heading, err, b.content, out)
		}
	}
	if ran < 3 {
		t.Errorf("only %d blocks of commands ran: are they still found?", ran)
	}
}
