package reconciler_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

func sourceError(reason string, then reconciler.Consequence) error {
	return &reconciler.SourceError{Reason: reason, Consequence: then, Err: errors.New("reading the branch: something is wrong")}
}

// Every field of the status just after the start, and after the first commit.
func TestFirstCommit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.etcd.elected = make(chan struct{}, 1)
		d.open()
		status := d.wantSync(api.Unknown)
		if status.Sync.LastAppliedRevision != nil || status.Source.LastAttemptedRevision != nil || status.Source.LastSeenAt != nil ||
			status.Sync.LastSuccessAt != nil || status.Sync.ServedFrom != "" || status.Source.Reachable {
			t.Errorf("a daemon that has seen nothing reports %+v", status)
		}
		if ready, _, reason := d.Ready(); ready || reason == "" {
			t.Errorf("ready is %v (%s) before anything can be served", ready, reason)
		}
		d.pass(time.Second)
		d.push("a", policies("p", "q"))
		d.etcd.elected <- struct{}{}
		synctest.Wait()

		status = d.wantSync(api.Synced)
		applied, attempted := status.Sync.LastAppliedRevision, status.Source.LastAttemptedRevision
		if applied == nil || applied.Commit != "a" || applied.Count != 2 || applied.Digest != policies("p", "q").Digest() || applied.Revision != "1-x.1" {
			t.Errorf("last applied is %+v", applied)
		}
		if attempted == nil || attempted.Commit != "a" || attempted.Author != "Ann <ann@example.com>" || attempted.Subject != "Commit a" {
			t.Errorf("last attempted is %+v", attempted)
		}
		if status.Sync.ServedFrom != "etcd" || !status.Source.Reachable || status.Replica.Role != "leader" || status.Replica.Leader != "one" {
			t.Errorf("served from %q, reachable %v, replica %+v", status.Sync.ServedFrom, status.Source.Reachable, status.Replica)
		}
		if status.Sync.LastSuccessAt == nil || !status.Sync.LastSuccessAt.Equal(time.Now()) {
			t.Errorf("last success is %v, want now", status.Sync.LastSuccessAt)
		}
		if h := status.History; len(h) != 1 || h[0].Outcome != api.Applied || h[0].Restores != "" {
			t.Errorf("the history is %+v", h)
		}
		d.wantCondition(api.Ready, "True", "Synced")
		d.wantCondition(api.Reconciling, "False", "Idle")
		d.wantCondition(api.Stalled, "False", "Progressing")
		if ready, _, _ := d.Ready(); !ready {
			t.Error("not ready though a set is served")
		}
		if len(d.disk.saved) != 1 || d.disk.saved[0].Head.Commit != "a" {
			t.Errorf("kept on disk: %v, want a", d.disk.saved)
		}
	})
}

// An invalid commit changes nothing that is served; its errors are in the status,
// and it is in the history once, however often git is read and whichever replica leads.
func TestInvalidCommit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		success := *d.Status().Sync.LastSuccessAt
		d.pass(time.Second)
		d.pushInvalid("b")
		d.pass(3 * d.Interval)
		d.etcd.elected <- struct{}{} // the term ends, and the next one finds b again
		close(d.etcd.done)
		synctest.Wait()
		d.pass(3 * d.Interval)

		status := d.wantSync(api.OutOfSync)
		d.wantPublished("a")
		if d.etcd.terms != 2 {
			t.Fatalf("%d terms, want 2", d.etcd.terms)
		}
		if h := status.History; len(h) != 2 || h[0].Commit != "b" || h[0].Outcome != api.Invalid || h[0].Digest != "" || h[0].Message == "" {
			t.Errorf("the history is %+v, want b once", h)
		}
		if e := status.Source.Errors; len(e) != 1 || e[0].Line != 3 || e[0].Column != 5 || e[0].File != "policies/a.yaml" {
			t.Errorf("the errors are %+v", e)
		}
		if status.Source.LastAttemptedRevision.Commit != "b" || status.Sync.LastAppliedRevision.Commit != "a" {
			t.Errorf("attempted %+v, applied %+v", status.Source.LastAttemptedRevision, status.Sync.LastAppliedRevision)
		}
		if !status.Sync.LastSuccessAt.Equal(success) {
			t.Errorf("the success time moved to %v on a failure", status.Sync.LastSuccessAt)
		}
		if d.git.deltas > 4 {
			t.Errorf("b was read %d times in all: a handled commit needs no further read", d.git.deltas-1)
		}
		stalled := d.wantCondition(api.Stalled, "True", "InvalidCommit")
		if want := success.Add(time.Second); !stalled.LastTransitionTime.Equal(want) {
			t.Errorf("stalled since %v, want %v", stalled.LastTransitionTime, want)
		}

		d.push("c", policies("p", "q"))
		status = d.wantSync(api.Synced)
		if len(status.Source.Errors) != 0 || !status.Sync.LastSuccessAt.Equal(time.Now()) {
			t.Errorf("after the valid commit: errors %v, success at %v", status.Source.Errors, status.Sync.LastSuccessAt)
		}
		if stalled = d.wantCondition(api.Stalled, "False", "Progressing"); !stalled.LastTransitionTime.Equal(time.Now()) {
			t.Errorf("no more stalled since %v, want now", stalled.LastTransitionTime)
		}
	})
}

// When the branch is forced back to the published commit, the failure of the
// commit in between is gone, in this term or in the next.
func TestForcedBack(t *testing.T) {
	for _, test := range []struct {
		name    string
		newTerm bool
		between func(d *daemon)
	}{
		{"from an invalid commit", false, func(d *daemon) { d.pushInvalid("b") }},
		{"from an invalid commit, found by the next leader", true, func(d *daemon) { d.pushInvalid("b") }},
		{"from one that could not be published", false, func(d *daemon) {
			d.etcd.change(func(f *storage) { f.publishErr = errors.New("etcd did not answer") })
			d.push("b", policies("q"))
			d.etcd.change(func(f *storage) { f.publishErr = nil })
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.push("a", policies("p"))
				d.open()
				test.between(d)
				d.wantSync(api.OutOfSync)
				if test.newTerm {
					close(d.etcd.done)
					synctest.Wait()
				}
				d.git.fail(func(f *repository) { f.commits = f.commits[:1] })
				d.git.notify()
				if test.newTerm {
					d.etcd.elected <- struct{}{}
				}
				synctest.Wait()
				status := d.wantSync(api.Synced)
				d.wantPublished("a")
				if len(status.Source.Errors) != 0 || status.Source.LastAttemptedRevision.Commit != "a" || !status.Sync.LastSuccessAt.Equal(time.Now()) {
					t.Errorf("the status is %+v, %+v", status.Source, status.Sync)
				}
				d.wantCondition(api.Stalled, "False", "Progressing")
			})
		})
	}
}

// A deposed leader stops publishing at once and campaigns again.
func TestDeposed(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.publishErr = reconciler.ErrDeposed })
		d.push("b", policies("q"))
		status := d.Status()
		if status.Replica.Role != "follower" || d.etcd.resigned != 1 {
			t.Errorf("the role is %s, resigned %d times; deposed means follower", status.Replica.Role, d.etcd.resigned)
		}
		tries := len(d.etcd.publishAt)
		d.pass(2 * d.Interval)
		if len(d.etcd.publishAt) != tries {
			t.Error("a follower published")
		}
		d.etcd.change(func(f *storage) { f.publishErr = nil })
		d.etcd.elected <- struct{}{}
		synctest.Wait()
		d.wantPublished("b")
		if d.Status().Replica.Role != "leader" {
			t.Error("elected again, but not the leader")
		}
	})
}

// A report that returns ErrDeposed ends the term too.
func TestDeposedWhileReporting(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.reportErr = reconciler.ErrDeposed })
		d.pushInvalid("b")
		if role := d.Status().Replica.Role; role != "follower" {
			t.Errorf("the role is %s", role)
		}
	})
}

// A rollback is a revert and a push: the history says which commit it restored.
func TestRevertRestores(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.push("b", delayed(900, "p"))
		d.push("c", policies("p"))
		d.push("d", policies("p")) // touches no policy: it restores nothing
		d.push("e", delayed(900, "p"))
		want := map[string]string{"a": "", "b": "", "c": "a", "d": "", "e": "b"}
		history := d.Status().History
		if len(history) != len(want) {
			t.Fatalf("the history is %+v", history)
		}
		for i, entry := range history {
			if entry.Restores != want[entry.Commit] {
				t.Errorf("%s restores %q, want %q", entry.Commit, entry.Restores, want[entry.Commit])
			}
			if i > 0 && entry.At.After(history[i-1].At) {
				t.Error("the history is not newest first")
			}
		}
	})
}

// Every policy is served with the commit that gave it its current meaning, after
// a change of leader too.
func TestOriginCommit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		origin := func(name string) string { return d.Served().Set.Get(name).Origin.Commit }
		d.push("a", policies("p", "q"))
		d.open()
		d.push("b", policies("p", "q").With(delayed(5, "q").Entries(), nil))
		if origin("p") != "a" || origin("q") != "b" {
			t.Errorf("p is from %s, q from %s; want a and b", origin("p"), origin("q"))
		}
		d.etcd.elected <- struct{}{} // a new term knows only what etcd holds
		close(d.etcd.done)
		synctest.Wait()
		d.push("c", policies("p", "q", "r").With(delayed(5, "q").Entries(), nil))
		if origin("p") != "a" || origin("q") != "b" || origin("r") != "c" {
			t.Errorf("p is from %s, q from %s, r from %s; want a, b and c", origin("p"), origin("q"), origin("r"))
		}
	})
}

// A trigger reaches this replica's own term, or goes through etcd to the leader.
func TestTrigger(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		heads := d.git.heads
		if err := d.Trigger(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if d.git.heads != heads+1 || d.etcd.triggered != 0 {
			t.Errorf("the leader read the head %d times, and asked etcd %d times", d.git.heads-heads, d.etcd.triggered)
		}
		d.etcd.triggers <- struct{}{} // from another replica
		synctest.Wait()
		if d.git.heads != heads+2 {
			t.Error("a trigger through etcd did not arrive")
		}
		close(d.etcd.done)
		synctest.Wait()
		if err := d.Trigger(t.Context()); err != nil || d.etcd.triggered != 1 {
			t.Errorf("a follower's trigger: %v, %d asked", err, d.etcd.triggered)
		}
		d.etcd.change(func(f *storage) { f.health.Healthy = false })
		if err := d.Trigger(t.Context()); err == nil {
			t.Error("a trigger that could not be stored returned no error")
		}
	})
}
