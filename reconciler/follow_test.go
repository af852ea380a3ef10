package reconciler_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

func stateOf(commit string, epoch, number int64, set *schema.Set) *reconciler.State {
	return &reconciler.State{
		Head: reconciler.Head{Commit: commit, Digest: set.Digest(), Count: set.Len()}, Set: set,
		Revision: reconciler.Revision{Epoch: reconciler.Epoch{Number: epoch, ID: "x"}, Number: number},
	}
}

// follower is a daemon that is never elected.
func (d *daemon) follower() {
	d.etcd.elected = make(chan struct{}, 8)
	d.ID = "two"
}

func (d *daemon) served() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var commits []string
	for _, state := range d.taken {
		commits = append(commits, state.Head.Commit)
	}
	return commits
}

func (d *daemon) wantServed(commits string) {
	d.t.Helper()
	if got := strings.Join(d.served(), " "); got != commits {
		d.t.Errorf("served %q, want %q", got, commits)
	}
}

// If etcd is away at the start, the set on disk is served, but only after the
// grace period, since etcd's may be newer. A newer one is served when etcd has it.
func TestDiskFallback(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.disk.kept = stateOf("a", 1, 5, policies("p"))
		d.etcd.health = api.EtcdStatus{Error: "etcd does not answer"}
		d.open()
		d.pass(d.EtcdGrace - time.Millisecond)
		d.wantServed("")
		if ready, _, _ := d.Ready(); ready {
			t.Error("ready with nothing to serve")
		}
		d.pass(time.Millisecond)
		d.wantServed("a")
		status := d.wantSync(api.Unknown)
		if status.Sync.ServedFrom != "disk" || status.Sync.LastAppliedRevision.Commit != "a" {
			t.Errorf("served from %q: %+v", status.Sync.ServedFrom, status.Sync.LastAppliedRevision)
		}
		if ready, etcd, _ := d.Ready(); !ready || etcd.Healthy {
			t.Errorf("ready %v, etcd %+v; want ready with etcd away", ready, etcd)
		}

		// etcd is back, with the same state: nothing new to serve.
		d.etcd.change(func(f *storage) { f.state, f.health.Healthy = stateOf("a", 1, 5, policies("p")), true })
		synctest.Wait()
		d.wantServed("a")
		if from := d.Status().Sync.ServedFrom; from != "etcd" {
			t.Errorf("served from %q, want etcd", from)
		}
		d.etcd.change(func(f *storage) { f.state = stateOf("b", 1, 6, policies("q")) })
		synctest.Wait()
		d.wantServed("a b")
	})
}

// If etcd answers within the grace period, the disk's set is never served.
func TestEtcdBeforeDisk(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.disk.kept = stateOf("a", 1, 5, policies("p"))
		d.open()
		d.pass(d.EtcdGrace / 2)
		d.etcd.change(func(f *storage) { f.state = stateOf("b", 1, 9, policies("q")) })
		synctest.Wait()
		d.pass(2 * d.EtcdGrace)
		d.wantServed("b")
		if len(d.disk.saved) != 1 || d.disk.saved[0].Head.Commit != "b" {
			t.Error("what is served was not kept on disk")
		}
	})
}

// An older revision is never served after a newer one; every revision of a later
// epoch is newer than those of an earlier one.
func TestNeverOlder(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.open()
		show := func(state *reconciler.State) {
			d.etcd.change(func(f *storage) { f.state = state })
			synctest.Wait()
		}
		show(stateOf("a", 1, 50, policies("p")))
		show(stateOf("b", 1, 40, policies("q"))) // etcd restored from a backup
		d.wantServed("a")
		show(stateOf("a", 1, 50, policies("p")))
		d.wantServed("a")
		show(stateOf("c", 2, 3, policies("r"))) // a new epoch
		d.wantServed("a c")
		show(stateOf("d", 1, 99, policies("s")))
		d.wantServed("a c")
	})
}

// A state that cannot be written to disk is served anyway, and the status says so
// until it is written: that is tried again.
func TestDiskFull(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.disk.err = errors.New("no space left on device")
		d.push("a", policies("p"))
		d.open()
		d.wantServed("a")
		if ready := d.wantCondition(api.Ready, "True", "Synced"); !strings.Contains(ready.Message, "no space left on device") {
			t.Errorf("the message %q does not say why", ready.Message)
		}
		if stalled := d.wantCondition(api.Stalled, "True", "DataFolderUnwritable"); !strings.Contains(stalled.Message, "no space left on device") {
			t.Errorf("the message %q does not say why", stalled.Message)
		}
		tries := d.disk.saves()
		d.pass(2 * d.DiskInterval)
		if d.disk.saves() <= tries {
			t.Error("keeping the state was not tried again")
		}
		d.disk.set(nil, nil)
		d.pass(d.DiskInterval)
		d.wantCondition(api.Stalled, "False", "Progressing")
		if ready := d.wantCondition(api.Ready, "True", "Synced"); strings.Contains(ready.Message, "no space left on device") {
			t.Errorf("the disk has room, and the message is %q", ready.Message)
		}
		tries = d.disk.saves()
		d.pass(2 * d.DiskInterval)
		if d.disk.saves() != tries {
			t.Error("a state that is kept was kept again")
		}
	})
}

// A copy that somebody removes from the disk is kept again, without waiting for
// another revision.
func TestDiskLosesTheCopy(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.wantServed("a")
		saves := d.disk.saves()
		d.disk.set(errors.New("no space left on device"), fmt.Errorf("the file: %w", reconciler.ErrNotOnDisk))
		d.pass(d.DiskInterval)
		d.wantCondition(api.Stalled, "True", "DataFolderUnwritable")
		d.disk.set(nil, nil)
		d.pass(d.DiskInterval)
		d.wantCondition(api.Stalled, "False", "Progressing")
		if d.disk.saves() != saves+2 {
			t.Errorf("the copy that was lost was kept %d times, want 2", d.disk.saves()-saves)
		}
	})
}

// A data folder that cannot be written is reported before there is something to keep.
func TestDiskCannotBeWritten(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.disk.kept = stateOf("a", 1, 5, policies("p"))
		d.disk.check = errors.New("read-only file system")
		d.open()
		d.pass(d.EtcdGrace)
		d.wantServed("a")
		if stalled := d.wantCondition(api.Stalled, "True", "DataFolderUnwritable"); !strings.Contains(stalled.Message, "read-only file system") {
			t.Errorf("the message %q does not say why", stalled.Message)
		}
		d.disk.set(nil, nil)
		d.pass(d.DiskInterval)
		d.wantCondition(api.Stalled, "False", "Progressing")
	})
}

// A damaged copy on disk is the reason that nothing can be served while etcd is away.
func TestDiskDamaged(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.disk.damage = errors.New("the journal is damaged")
		d.open()
		d.pass(2 * d.EtcdGrace)
		if ready, _, reason := d.Ready(); ready || !strings.Contains(reason, "the journal is damaged") {
			t.Errorf("ready %v, because %q", ready, reason)
		}
	})
}

// If etcd was wiped and git's newest commit cannot be applied, the disk's set is
// published again, and the guard compares with it.
func TestWipedEtcdAndBadHead(t *testing.T) {
	kept := stateOf("a", 1, 5, policies(numbered(12)...))
	t.Run("invalid", func(t *testing.T) {
		scenario(t, func(t *testing.T, d *daemon) {
			d.disk.kept = kept
			d.pushInvalid("b")
			d.etcd.epoch = 2
			d.open()
			d.pass(d.EtcdGrace)
			d.wantPublished("a")
			d.wantServed("a")
			if from := d.Status().Sync.ServedFrom; from != "etcd" {
				t.Errorf("served from %q", from)
			}
		})
	})
	t.Run("prunes", func(t *testing.T) {
		scenario(t, func(t *testing.T, d *daemon) {
			d.disk.kept = kept
			d.push("a", kept.Set)
			d.push("b", policies("p"))
			d.etcd.epoch = 2
			d.open()
			d.pass(d.EtcdGrace)
			d.wantPublished("a")
			if h := d.Status().History; len(h) != 1 || h[0].Outcome != api.Refused {
				t.Errorf("the history is %+v, want b refused", h)
			}
		})
	})
}

// A follower's status is its leader's; once no leader reports, its sync status is Unknown.
func TestFollowerAnswersAsLeader(t *testing.T) {
	scenario(t, func(t *testing.T, leader *daemon) {
		leader.push("a", policies("p"))
		leader.open()
		leader.pass(time.Second)
		leader.pushInvalid("b")
		leader.pass(time.Second)

		follower := newDaemon(t)
		follower.follower()
		show := func() {
			leader.etcd.mu.Lock()
			report, state, history := leader.etcd.report, leader.etcd.state, leader.etcd.history
			leader.etcd.mu.Unlock()
			follower.etcd.change(func(f *storage) { f.report, f.state, f.history = report, state, history })
			synctest.Wait()
		}
		show()
		follower.open()
		defer follower.Close()
		check := func() {
			t.Helper()
			l, f := leader.Status(), follower.Status()
			if f.Replica.Role != "follower" || f.Replica.ID != "two" || f.Replica.Leader != "one" {
				t.Errorf("the follower says it is %+v", f.Replica)
			}
			if l.Sync.Status != f.Sync.Status || l.Sync.Message != f.Sync.Message || *l.Sync.LastAppliedRevision != *f.Sync.LastAppliedRevision {
				t.Errorf("leader %+v\nfollower %+v", l.Sync, f.Sync)
			}
			if l.Source.LastAttemptedRevision.Commit != f.Source.LastAttemptedRevision.Commit || len(l.Source.Errors) != len(f.Source.Errors) {
				t.Errorf("leader %+v\nfollower %+v", l.Source, f.Source)
			}
			for i := range l.Conditions {
				if l.Conditions[i] != f.Conditions[i] {
					t.Errorf("leader %+v\nfollower %+v", l.Conditions[i], f.Conditions[i])
				}
			}
			if len(l.History) != len(f.History) {
				t.Errorf("histories of %d and %d", len(l.History), len(f.History))
			}
		}
		check()
		leader.push("c", policies("q"))
		show()
		check()
		follower.wantSync(api.Synced)

		// The leader stops reporting.
		follower.pass(4 * follower.Interval)
		if status := follower.wantSync(api.Unknown); status.Sync.LastAppliedRevision.Commit != "c" {
			t.Errorf("applied is %+v", status.Sync.LastAppliedRevision)
		}
		follower.wantCondition(api.Ready, "Unknown", "NoReport")
	})
}

// Transition times are the leader's: a follower that sees the change later has
// the same, and they survive a restart of the leader.
func TestTransitionTimesSurvive(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.pass(time.Minute)
		d.pushInvalid("b")
		since := d.condition(api.Stalled).LastTransitionTime
		d.pass(time.Minute)

		follower := newDaemon(t)
		follower.follower()
		follower.etcd.state, follower.etcd.history = d.etcd.state, d.etcd.history
		follower.open()
		defer follower.Close()
		follower.condition(api.Stalled) // it has seen none of it yet
		follower.pass(time.Second)
		follower.etcd.change(func(f *storage) { f.report = d.etcd.report })
		for range 2 {
			follower.pass(time.Second)
			if at := follower.condition(api.Stalled).LastTransitionTime; !at.Equal(since) {
				t.Errorf("the follower says stalled since %v, want %v", at, since)
			}
		}

		restarted := newDaemon(t)
		restarted.git, restarted.etcd = d.git, d.etcd
		restarted.Source, restarted.Validator, restarted.Store = d.git, d.git, d.etcd
		if err := d.Reconciler.Close(); err != nil {
			t.Error(err)
		}
		d.etcd.elected <- struct{}{}
		restarted.open()
		defer restarted.Close()
		if at := restarted.wantCondition(api.Stalled, "True", "InvalidCommit").LastTransitionTime; !at.Equal(since) {
			t.Errorf("after a restart stalled since %v, want %v", at, since)
		}
	})
}

// A change of a condition that a request for the status sees first is reported to the followers too.
func TestSeenByRequestIsReported(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.mu.Lock() // without a value on Changed
		d.etcd.drift = api.Drift{Status: api.DriftDetected, Total: 1}
		d.etcd.mu.Unlock()
		d.pass(time.Second)
		ready := d.wantCondition(api.Ready, "False", "OutOfSync")
		synctest.Wait()
		last := d.etcd.reports[len(d.etcd.reports)-1]
		if last.Conditions[0].Status != "False" || !last.Conditions[0].LastTransitionTime.Equal(ready.LastTransitionTime) {
			t.Errorf("reported is %+v, want %+v", last.Conditions[0], ready)
		}
	})
}

// An idle leader reports often enough for its followers to count the report as fresh.
func TestLeaderKeepsReporting(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.pass(10 * d.Interval)
		reports := d.etcd.reports
		for i := 1; i < len(reports); i++ {
			if gap := reports[i].At.Sub(reports[i-1].At); gap > 2*d.Interval {
				t.Errorf("no report for %s", gap)
			}
		}
		if n := len(reports); n < 5 || n > 13 {
			t.Errorf("%d reports in ten idle intervals", n)
		}
	})
}

// What a trigger makes the leader read is reported to the followers at once,
// though nothing changed or the read failed: who triggered it may ask one of
// them. Many triggers make few reports.
func TestATriggeredReadIsReportedAtOnce(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		for _, trigger := range []func(){
			func() { _ = d.Trigger(t.Context()) },
			func() { d.etcd.triggers <- struct{}{} },
			func() {
				d.git.fail(func(f *repository) { f.headErr = sourceError("PermissionDenied", reconciler.Stalled) })
				_ = d.Trigger(t.Context())
			},
			func() { _ = d.Trigger(t.Context()) },
		} {
			d.pass(2 * time.Second)
			trigger()
			synctest.Wait()
			source := d.etcd.reports[len(d.etcd.reports)-1].Source
			if source.LastTriedAt == nil || !source.LastTriedAt.Equal(time.Now()) || source.LastSeenAt.Equal(time.Now()) != (source.Error == nil) {
				t.Errorf("at %s the newest report is of a read that was tried at %v and succeeded at %v", time.Now(), source.LastTriedAt, source.LastSeenAt)
			}
		}
		before := len(d.etcd.reports)
		for range 100 {
			_ = d.Trigger(t.Context())
			d.pass(time.Second / 50)
		}
		d.pass(time.Second)
		if n := len(d.etcd.reports) - before; n < 1 || n > 4 {
			t.Errorf("100 triggers in two seconds make %d reports", n)
		}
		if source := d.Status().Source; !d.etcd.reports[len(d.etcd.reports)-1].Source.LastTriedAt.Equal(*source.LastTriedAt) {
			t.Errorf("the last read, of %v, is not reported", source.LastTriedAt)
		}
	})
}

// Close resigns the leadership and waits for all goroutines: the bubble fails
// the test if one is left.
func TestCloseResigns(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		if err := d.Reconciler.Close(); err != nil {
			t.Error(err)
		}
		if d.etcd.resigned != 1 {
			t.Errorf("resigned %d times", d.etcd.resigned)
		}
		if role := d.Status().Replica.Role; role != "follower" {
			t.Errorf("the role is %s after Close", role)
		}
	})
}

// Close before Open does nothing.
func TestCloseUnopened(t *testing.T) {
	if err := newDaemon(t).Reconciler.Close(); err != nil {
		t.Error(err)
	}
}
