package reconciler_test

import (
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// daemon is a Reconciler with fake dependencies, in a bubble with fake time.
type daemon struct {
	*reconciler.Reconciler
	t    *testing.T
	git  *repository
	etcd *storage
	disk *disk
	mu   sync.Mutex
	// taken are the states given to Serve.
	taken []*reconciler.State
}

// scenario runs a test in a bubble with fake time. The daemon is closed at its
// end; a goroutine that is left fails the test.
func scenario(t *testing.T, run func(t *testing.T, d *daemon)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := newDaemon(t)
		run(t, d)
		if err := d.Reconciler.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
		if d.git.openDeltas != 0 {
			t.Errorf("%d deltas were never closed", d.git.openDeltas)
		}
	})
}

func newDaemon(t *testing.T) *daemon {
	d := &daemon{t: t, git: newRepository(), etcd: newStorage(), disk: &disk{}}
	d.Reconciler = reconciler.New(d.git, d.git, d.etcd, d.disk, func(state *reconciler.State) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.taken = append(d.taken, state)
	})
	d.ID, d.URL, d.Branch, d.Path = "one", "/srv/policies.git", "main", "policies"
	d.Logger = slog.New(slog.DiscardHandler)
	d.Jitter = 0 // Tests compute exact waits.
	return d
}

func (d *daemon) open() {
	d.t.Helper()
	if err := d.Open(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
	synctest.Wait()
}

// push makes a valid commit and waits until the daemon has handled it.
func (d *daemon) push(hash string, set *schema.Set, options ...func(*reconciler.Commit)) {
	commit := reconciler.Commit{Hash: hash, Author: "Ann <ann@example.com>", Subject: "Commit " + hash}
	for _, option := range options {
		option(&commit)
	}
	d.git.commit(commit, &schema.Verdict{Set: set})
	synctest.Wait()
}

func allowPrune(commit *reconciler.Commit) { commit.AllowPrune = true }

func (d *daemon) pushInvalid(hash string, options ...func(*reconciler.Commit)) {
	commit := reconciler.Commit{Hash: hash, Author: "Ann <ann@example.com>", Subject: "Commit " + hash}
	for _, option := range options {
		option(&commit)
	}
	d.git.commit(commit, &schema.Verdict{Errors: []schema.Problem{{File: "policies/a.yaml", Line: 3, Column: 5, Message: "percentage must be between 0 and 100, not 150"}}})
	synctest.Wait()
}

// pass lets time pass, which is the bubble's: it costs none.
func (d *daemon) pass(duration time.Duration) {
	time.Sleep(duration)
	synctest.Wait()
}

func (d *daemon) published() string {
	d.etcd.mu.Lock()
	defer d.etcd.mu.Unlock()
	if d.etcd.state == nil {
		return ""
	}
	return d.etcd.state.Head.Commit
}

func (d *daemon) wantPublished(commit string) {
	d.t.Helper()
	if got := d.published(); got != commit {
		d.t.Errorf("published is %q, want %q", got, commit)
	}
}

func (d *daemon) condition(kind api.ConditionType) api.Condition {
	d.t.Helper()
	for _, condition := range d.Status().Conditions {
		if condition.Type == kind {
			return condition
		}
	}
	d.t.Fatalf("there is no condition %s", kind)
	return api.Condition{}
}

func (d *daemon) wantCondition(kind api.ConditionType, status, reason string) api.Condition {
	d.t.Helper()
	condition := d.condition(kind)
	if condition.Status != status || condition.Reason != reason {
		d.t.Errorf("%s is %s (%s: %s), want %s (%s)", kind, condition.Status, condition.Reason, condition.Message, status, reason)
	}
	return condition
}

func (d *daemon) wantSync(word api.SyncState) api.Status {
	d.t.Helper()
	status := d.Status()
	if status.Sync.Status != word {
		d.t.Errorf("sync is %s (%s), want %s", status.Sync.Status, status.Sync.Message, word)
	}
	return status
}
