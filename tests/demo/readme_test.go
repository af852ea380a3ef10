//go:build linux

package demo

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// The README leads a new user from a clone to a rollback: every command runs, in
// order and unchanged, except for the build, whose programs exist already, and the
// port, which may be in use.
func TestReadmeLeadsFromCloneToRevert(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testtool.Root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Use it day to day\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var script string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(section, -1) {
		script += block[1]
	}
	const build, port = "make build ", "localhost:8080"
	if !found || !strings.HasPrefix(script, build) || !strings.Contains(script, port) {
		t.Fatalf("the README's daily use does not begin with %q, or does not query %s:\n%s", build, port, script)
	}
	address := testtool.FreeAddress(t)
	script = "true " + strings.ReplaceAll(strings.TrimPrefix(script, build), port, address)

	clone := filepath.Join(t.TempDir(), "hfi")
	if err := os.MkdirAll(filepath.Join(clone, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{"hfid": hfidtest.Binary(t), "hfi": hfidtest.Client(t)} {
		if err := os.Symlink(program, filepath.Join(clone, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// Each command is printed before it runs. In the end the daemon must have exited.
	command := exec.CommandContext(ctx, "bash", "-c", "set -veuo pipefail\n"+script+"wait\n")
	child.OwnGroup(command)
	command.Cancel = func() error { return child.KillGroup(command.Process.Pid) }
	command.Dir = clone
	command.Env = append(gittest.Environment(), "HFID_LISTEN="+address, "HFI_SERVER=http://"+address)
	command.WaitDelay = 10 * time.Second
	out, err := command.CombinedOutput()
	if command.Process != nil {
		_ = command.Cancel() // in case a failed command left the daemon running
	}
	t.Logf("%s", out)
	try := filepath.Join(filepath.Dir(clone), "hfi-try")
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(try, "hfid.log"))
		t.Fatalf("following the README: %v; the daemon logged\n%s", err, log)
	}
	for _, part := range []string{
		`"sync":`,                 // the status
		`"name":"frontend-delay"`, // what a filter of frontend gets after the push
		"restores",                // the revert in the history
	} {
		if !strings.Contains(string(out), part) {
			t.Errorf("following the README did not print %q", part)
		}
	}
	if served := strings.Count(string(out), " is served: "); served != 3 {
		t.Errorf("%d commits were served, want 3", served)
	}
}
