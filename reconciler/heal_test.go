package reconciler_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// drift is a foreign write to the key of policy p.
func (d *daemon) drift() {
	now := time.Now()
	d.etcd.change(func(f *storage) {
		f.drift = api.Drift{Status: api.DriftDetected, Total: 1, Since: &now,
			Items: []api.DriftItem{{Name: "p", Key: "/hfi/policies/p", Kind: api.Modified}}}
	})
	synctest.Wait()
}

// In drift mode report the daemon shows drift and repairs nothing.
func TestReportedDriftIsNotRepaired(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		success := *d.Status().Sync.LastSuccessAt
		d.drift()
		d.pass(3 * d.Interval)
		status := d.wantSync(api.OutOfSync)
		if status.Drift.Status != api.DriftDetected || status.Drift.Total != 1 || status.Drift.Mode != "report" || status.Drift.Heal != nil {
			t.Errorf("the drift is %+v", status.Drift)
		}
		if len(d.etcd.published) != 1 || len(d.taken) != 1 {
			t.Errorf("published %d times, served %d states; drift must only be reported", len(d.etcd.published), len(d.taken))
		}
		if !status.Sync.LastSuccessAt.Equal(success) {
			t.Error("the success time moved while etcd had drifted")
		}
		d.wantCondition(api.Ready, "False", "OutOfSync")
	})
}

// In drift mode heal it repairs at once, counts the repair, and adds nothing to the history.
func TestHeal(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.DriftMode = reconciler.HealDrift
		d.push("a", policies("p"))
		d.open()
		d.drift()
		status := d.wantSync(api.Synced)
		if last := d.etcd.published[len(d.etcd.published)-1]; len(d.etcd.published) != 2 || last.Commit != "a" || last.Entry != nil {
			t.Errorf("published %d times, last %+v; want a again, without an entry", len(d.etcd.published), last)
		}
		if heal := status.Drift.Heal; heal == nil || heal.Repairs != 1 || heal.LastAt == nil || heal.Message != "" {
			t.Errorf("heal is %+v", heal)
		}
		if len(status.History) != 1 {
			t.Errorf("the history is %+v", status.History)
		}
	})
}

// Repairs do not wait for a remote that hangs or for a slow validation.
func TestHealWhileGitHangs(t *testing.T) {
	for _, method := range []string{"Head", "Delta", "Apply"} {
		t.Run(method, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.DriftMode = reconciler.HealDrift
				d.push("a", policies("p"))
				d.open()
				released := make(chan struct{})
				d.git.fail(func(f *repository) { f.hangs, f.released = method, released })
				d.push("b", policies("q"))
				d.drift()
				d.pass(5 * time.Second)
				if last := d.etcd.published[len(d.etcd.published)-1]; len(d.etcd.published) != 2 || last.Commit != "a" || last.Entry != nil {
					t.Errorf("published %d times, last %+v; want a again, while git hangs", len(d.etcd.published), last)
				}
				if drift := d.Status().Drift; drift.Status != api.DriftNone || drift.Heal.Repairs != 1 {
					t.Errorf("the drift is %+v, heal %+v", drift, drift.Heal)
				}
				close(released)
				synctest.Wait()
				d.wantPublished("b")
				d.wantSync(api.Synced)
			})
		})
	}
}

// If the term ends while git hangs, this replica resigns at once.
func TestDeposedWhileGitHangs(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.DriftMode = reconciler.HealDrift
		d.push("a", policies("p"))
		d.open()
		d.git.fail(func(f *repository) { f.hangs, f.released = "Delta", make(chan struct{}) })
		d.push("b", policies("q"))
		d.etcd.change(func(f *storage) { f.publishErr = reconciler.ErrDeposed })
		d.drift()
		d.pass(5 * time.Second)
		close(d.etcd.done)
		synctest.Wait()
		if role := d.Status().Replica.Role; role != "follower" || d.etcd.resigned != 1 {
			t.Errorf("after its term the role is %s, resigned %d times", role, d.etcd.resigned)
		}
		d.wantPublished("a")
	})
}

// Repairs that are undone come at growing intervals, up to a limit, and the
// status says that something keeps changing etcd, until it has not for a while.
func TestHealBacksOff(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.DriftMode = reconciler.HealDrift
		d.push("a", policies("p"))
		d.open()
		d.etcd.publishAt = nil
		for range 1000 { // another writer changes etcd every 200 ms
			d.drift()
			d.pass(200 * time.Millisecond)
		}
		heals := d.etcd.publishAt
		if len(heals) < 7 || len(heals) > 10 {
			t.Fatalf("%d repairs in 200s, want some 8", len(heals))
		}
		last := time.Duration(0)
		for i := 1; i < len(heals); i++ {
			wait := heals[i].Sub(heals[i-1])
			if wait < last-time.Second || wait > d.HealMax+time.Second {
				t.Errorf("repair %d came after %s, the one before after %s", i, wait, last)
			}
			last = wait
		}
		if message := d.Status().Drift.Heal.Message; !strings.Contains(message, "something keeps changing etcd") || !strings.Contains(message, "/hfi/policies/p") {
			t.Errorf("the message is %q", message)
		}
		d.pass(10 * time.Minute)
		if message := d.Status().Drift.Heal.Message; message != "" {
			t.Errorf("ten minutes after the last change the status still says %q", message)
		}
		d.etcd.publishAt = nil
		began := time.Now()
		d.drift()
		if len(d.etcd.publishAt) != 1 || !d.etcd.publishAt[0].Equal(began) {
			t.Error("after a time without drift the first repair must be made at once")
		}
	})
}

// A repair that fails is in the status, is tried again at growing intervals, and
// does not count as a repair.
func TestHealFails(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.DriftMode = reconciler.HealDrift
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.publishErr, f.publishAt = errors.New("no space left"), nil })
		d.drift()
		d.pass(20 * time.Second)
		if n := len(d.etcd.publishAt); n != 5 {
			t.Errorf("%d tries in 20s, want 5 with doubling waits", n)
		}
		if heal := d.Status().Drift.Heal; heal.Repairs != 0 || heal.LastAt != nil || !strings.Contains(heal.Message, "no space left") {
			t.Errorf("heal is %+v", heal)
		}
		d.etcd.change(func(f *storage) { f.publishErr = nil })
		d.pass(time.Minute)
		if heal := d.Status().Drift.Heal; heal.Repairs != 1 || heal.Message != "" {
			t.Errorf("heal is %+v", heal)
		}
	})
}

// After the head is lost, the served set is published again, in drift mode
// report too and whatever git's newest commit is.
func TestLostHeadIsRepublished(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.pushInvalid("b")
		d.etcd.change(func(f *storage) { f.verified = false })
		synctest.Wait()
		if last := d.etcd.published[len(d.etcd.published)-1]; len(d.etcd.published) != 2 || last.Commit != "a" || last.Entry != nil {
			t.Errorf("published %d times, last %+v; want a again", len(d.etcd.published), last)
		}
		d.wantSync(api.OutOfSync)
		d.wantCondition(api.Stalled, "True", "InvalidCommit")
	})
}

// Nothing is repaired while etcd cannot be reached.
func TestNoRepairWhileEtcdIsAway(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.DriftMode = reconciler.HealDrift
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.health.Healthy, f.health.Error, f.verified = false, "no answer", false })
		d.drift()
		d.pass(3 * d.Interval)
		if len(d.etcd.published) != 1 {
			t.Errorf("published %d times", len(d.etcd.published))
		}
		status := d.wantSync(api.Unknown)
		if status.Drift.Status != api.DriftUnknown {
			t.Errorf("drift is %s", status.Drift.Status)
		}
		d.wantCondition(api.Ready, "Unknown", "EtcdUnreachable")
	})
}

// forge is another writer's head.
func (d *daemon) forge() {
	now := time.Now()
	d.etcd.change(func(f *storage) {
		f.forged = "/hfi/head: it is not signed"
		f.drift = api.Drift{Status: api.DriftDetected, Total: 1, Since: &now, Items: []api.DriftItem{{Key: "/hfi/head", Kind: api.Forged}}}
	})
	synctest.Wait()
}

// What is forged is repaired at once in either drift mode, though other repairs
// are undone all the time, and though git is away; a flood of forgeries costs a
// bounded number of writes.
func TestForgeriesAreRepairedAtOnce(t *testing.T) {
	for _, mode := range []string{reconciler.ReportDrift, reconciler.HealDrift} {
		t.Run(mode, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.DriftMode = mode
				d.push("a", policies("p"))
				d.open()
				d.git.fail(func(f *repository) { f.headErr = errors.New("git is away") })
				// The repairs of ordinary drift now come at the longest intervals.
				for range 10 {
					d.etcd.change(func(f *storage) { f.verified = false })
					d.pass(time.Minute)
				}
				d.etcd.change(func(f *storage) { f.verified = false })
				synctest.Wait()
				d.etcd.change(func(f *storage) { f.verified = false })
				synctest.Wait()
				if d.etcd.View().HeadVerified {
					t.Fatal("an ordinary repair did not wait")
				}
				for range 20 {
					published := len(d.etcd.published)
					d.forge()
					if d.etcd.View().Forged != "" || len(d.etcd.published) != published+1 {
						t.Fatalf("the forged head is still there after %d publications", len(d.etcd.published)-published)
					}
					d.pass(d.ForgedMin)
				}
				published := len(d.etcd.published)
				for range 1000 {
					d.forge()
					d.pass(time.Millisecond)
				}
				if writes := len(d.etcd.published) - published; writes < 2 || writes > int(time.Second/d.ForgedMin)+1 {
					t.Errorf("a thousand forgeries in a second led to %d publications", writes)
				}
				if last := d.etcd.published[len(d.etcd.published)-1]; last.Commit != "a" || last.Entry != nil || len(d.taken) == 0 {
					t.Errorf("published %+v", last)
				}
			})
		})
	}
}

// A repair that fails, because etcd is full for example, is not tried again as
// fast as one that succeeds.
func TestFailedRepairsOfForgeriesWait(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.publishErr = errors.New("etcd is full") })
		before := len(d.etcd.publishAt)
		d.forge()
		d.pass(10 * time.Second)
		if tries := len(d.etcd.publishAt) - before; tries < 3 || tries > 12 {
			t.Errorf("%d tries in 10 s", tries)
		}
		d.etcd.change(func(f *storage) { f.publishErr = nil })
		d.pass(2 * time.Second)
		if forged := d.etcd.View().Forged; forged != "" {
			t.Errorf("still forged: %s", forged)
		}
	})
}

// A replica that does not lead cannot repair: if nobody does, a person has to.
func TestALastingForgeryNeedsAPerson(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) { f.publishErr = errors.New("no space") })
		d.forge()
		if status := d.wantSync(api.OutOfSync); !strings.Contains(status.Sync.Message, "/hfi/head: it is not signed") {
			t.Errorf("the message is %q", status.Sync.Message)
		}
		d.wantCondition(api.Stalled, "False", "Progressing")
		d.pass(d.EtcdStalledAfter)
		d.wantCondition(api.Stalled, "True", "Forged")
		d.etcd.change(func(f *storage) { f.publishErr = nil })
		d.pass(time.Second)
		d.wantSync(api.Synced)
		d.wantCondition(api.Stalled, "False", "Progressing")
	})
}
