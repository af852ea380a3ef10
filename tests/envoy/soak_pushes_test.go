package envoy

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
)

// soakPushes changes policy "changing" in a repository ten times a second, one
// commit each, through one git process: starting git for each would take more CPU
// time than the code under test.
type soakPushes struct {
	cancel  context.CancelFunc
	done    chan struct{}
	commits int
	err     error
}

// soakEvery is the interval between changes.
const soakEvery = 100 * time.Millisecond

// soakPush starts the changes, on top of the head of main.
func soakPush(t *testing.T, repo *gittest.Repo) *soakPushes {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	command := exec.Command("git", "fast-import", "--quiet")
	command.Dir = repo.Bare()
	command.Env = gittest.Environment()
	input, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	command.Stdout, command.Stderr = &out, &out
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &soakPushes{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = p.run(ctx, input)
		_ = input.Close()
		if err := command.Wait(); err != nil && p.err == nil {
			p.err = fmt.Errorf("git fast-import: %w: %s", err, out.String())
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-p.done
	})
	return p
}

// run writes commits until the context ends.
func (p *soakPushes) run(ctx context.Context, input io.Writer) error {
	ticker := time.NewTicker(soakEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		policy, message := soakChanging(p.commits), fmt.Sprintf("Change %d", p.commits)
		// "checkpoint" does what a push does: it writes objects, then the branch.
		_, err := fmt.Fprintf(input, "commit refs/heads/main\ncommitter Ada Tester <ada@example.com> %d +0000\ndata %d\n%s\nfrom refs/heads/main^0\nM 100644 inline policies/changing.yaml\ndata %d\n%s\ncheckpoint\n",
			time.Now().Unix(), len(message), message, len(policy), policy)
		if err != nil {
			return fmt.Errorf("writing to git fast-import: %w", err)
		}
		p.commits++
	}
}

// end ends the changes, waits until the last one is written, and returns their
// number.
func (p *soakPushes) end(t *testing.T) int {
	t.Helper()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(envoytest.WaitLimit):
		t.Fatal("git fast-import does not end")
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	return p.commits
}

// soakChanging returns a version of the policy that changes: it aborts /changing
// with one of two statuses or, in every third version, nothing.
func soakChanging(version int) string {
	match, status := "/changing", 410
	switch version % 3 {
	case 1:
		status = 503
	case 2:
		match = "/nothing"
	}
	return fmt.Sprintf("metadata: {name: changing}\nspec: {rules: [{match: {path: {exact: %s}}, fault: {abort: {status: %d, body: version %d}}}]}\n",
		match, status, version)
}
