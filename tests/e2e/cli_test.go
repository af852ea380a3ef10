package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// hfi runs the built command line in a folder, and returns its output and exit code.
func hfi(t *testing.T, d *hfidtest.Daemon, folder string, arguments ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*hfidtest.WaitLimit)
	defer cancel()
	command := exec.CommandContext(ctx, hfidtest.Client(t), arguments...)
	command.Dir = folder
	command.Env = append(gittest.Environment(), "HFI_SERVER="+d.URL(), "TMPDIR="+t.TempDir())
	var both bytes.Buffer
	command.Stdout, command.Stderr = &both, &both
	if err := command.Run(); command.ProcessState == nil {
		t.Fatalf("hfi %v: %v", arguments, err)
	}
	return both.String(), command.ProcessState.ExitCode()
}

// want runs hfi and checks its exit code and that its output matches all patterns.
func want(t *testing.T, d *hfidtest.Daemon, folder string, code int, patterns []string, arguments ...string) {
	t.Helper()
	out, got := hfi(t, d, folder, arguments...)
	if got != code {
		t.Fatalf("hfi %v: exit code %d, want %d:\n%s", arguments, got, code, out)
	}
	for _, pattern := range patterns {
		if !regexp.MustCompile(pattern).MatchString(out) {
			t.Errorf("hfi %v: nothing like %q in\n%s", arguments, pattern, out)
		}
	}
}

// A policy created with the command line is committed, pushed and served, until the
// command line deletes it; git revert restores it. The output of hfi is compared
// with HTTP responses and stock git.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	first := commit(repo, "Start", files(500, "cart"))
	d := hfidtest.Run(t, repo.Bare())
	d.WaitSynced(first)
	work := repo.Work()
	policy := filepath.Join(t.TempDir(), "frontend.yaml")
	if err := os.WriteFile(policy, []byte(delay("frontend-delay", "frontend", 500)), 0o600); err != nil {
		t.Fatal(err)
	}

	want(t, d, work, 0, []string{"is served"}, "apply", "-f", policy, "--repo", repo.Bare())
	applied := repo.Server("rev-parse", "main")
	seeStatus(t, d, "applied", synced(applied, 2))
	see(t, d, "applied", "/v1/policies/frontend-delay", fields{"origin.commit": applied, "spec.rules.0.fault.delay_ms": 500, "spec.selector.service": "frontend"})
	wantNames(t, "etcd", keysIn(d.Etcdctl), "cart", "frontend-delay")

	want(t, d, work, 0, []string{"frontend-delay", "cart"}, "get")
	want(t, d, work, 0, []string{`"delay_ms": ?500`}, "get", "frontend-delay", "-o", "json")
	want(t, d, work, 6, nil, "get", "no-such-policy")
	want(t, d, work, 0, []string{"Synced", applied[:12]}, "status", "--exit-code")
	want(t, d, work, 0, []string{applied[:12], first[:12]}, "history")
	want(t, d, work, 0, nil, "wait", applied, "--timeout", "60s")

	// The diff shows what a commit would change before it is pushed.
	repo.Git("pull", "-q", "--ff-only", "origin", "main")
	next := repo.Commit("Slow the cart", map[string]string{file("cart"): delay("cart", "cart", 900)})
	want(t, d, work, 5, []string{"cart", "900"}, "diff", "HEAD", "--exit-code")
	want(t, d, work, 7, []string{"is not on main.*: did you push"}, "wait", next, "--timeout", "60s")
	repo.Push()
	want(t, d, work, 0, nil, "wait", "HEAD", "--timeout", "60s")
	want(t, d, work, 0, nil, "diff", "HEAD", "--exit-code")

	want(t, d, work, 0, nil, "delete", "frontend-delay", "--repo", repo.Bare())
	deleted := repo.Server("rev-parse", "main")
	seeStatus(t, d, "deleted", synced(deleted, 1))
	if answer := d.Get("/v1/policies/frontend-delay"); answer.Status != 404 {
		t.Errorf("a deleted policy gets %d: %s", answer.Status, answer.Body)
	}
	wantNames(t, "etcd", keysIn(d.Etcdctl), "cart")

	repo.Git("pull", "-q", "--ff-only", "origin", "main")
	repo.Revert(deleted)
	back := repo.Head()
	repo.Push()
	want(t, d, work, 0, nil, "wait", back, "--timeout", "60s")
	want(t, d, work, 0, []string{next[:7]}, "history")
	seeStatus(t, d, "reverted", synced(back, 2).with(fields{"history.0.restores": next}))

	// An invalid commit, pushed with git: waiting for it ends at once, with the reason.
	bad := commit(repo, "Bad", map[string]string{file("cart"): "metadata: {name: cart}\n"})
	began := time.Now()
	want(t, d, work, 7, []string{"cart.yaml"}, "wait", bad, "--timeout", "60s")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("waiting for an invalid commit took %s", took)
	}
	want(t, d, work, 5, []string{"OutOfSync", "cart.yaml"}, "status", "--exit-code")

	// Without the branch no commit of it will be applied, until somebody acts.
	repo.Server("update-ref", "-d", "refs/heads/main")
	lost := repo.Commit("Lost", map[string]string{file("cart"): delay("cart", "cart", 1)})
	want(t, d, work, 7, []string{"will not be applied: RepositoryEmpty"}, "wait", lost, "--timeout", "60s")

	d.Stop()
}
