package reconciler_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// syncedReport is a report of the leader "one" whose commit a is served.
func syncedReport(d *daemon, at time.Time) *reconciler.LeaderReport {
	d.etcd.state = stateOf("a", 1, 1, policies("p"))
	return &reconciler.LeaderReport{
		Leader: "one", At: at,
		Source: api.SourceStatus{Reachable: true, LastAttemptedRevision: &api.CommitRef{Commit: "a"}},
	}
}

// A report counts only while the one who wrote it leads.
func TestAReportNeedsALeader(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.etcd.report = syncedReport(d, time.Now())
		d.open()
		d.wantSync(api.Synced)
		d.etcd.change(func(f *storage) { f.leaderless = true })
		synctest.Wait()
		if status := d.wantSync(api.Unknown); status.Sync.Message != "no replica leads, so nobody reads git" || status.Replica.Leader != "" {
			t.Errorf("the message is %q, the leader %q", status.Sync.Message, status.Replica.Leader)
		}
		d.wantCondition(api.Ready, "Unknown", "NoLeader")
	})
}

// A report that a starting replica finds is as old as it says.
func TestAnOldReportIsOldWhenItIsFirstRead(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.etcd.report = syncedReport(d, time.Now().Add(-time.Hour))
		d.open()
		d.wantSync(api.Unknown)
		d.etcd.change(func(f *storage) { f.report = syncedReport(d, time.Now()) })
		synctest.Wait()
		d.wantSync(api.Synced)
		// The leader's clock may be an hour behind: what arrives now is new.
		d.etcd.change(func(f *storage) { f.report = syncedReport(d, time.Now().Add(-time.Hour)) })
		synctest.Wait()
		d.wantSync(api.Synced)
	})
}

// With an alarm of etcd manual action is required: the status says so on each replica,
// and a follower does not rely on the report of a leader that cannot write.
func TestAlarmsStall(t *testing.T) {
	alarm := func(f *storage) {
		f.health.Alarms, f.health.Error = []string{"NOSPACE"}, "etcd raises the alarm NOSPACE: its database is full"
	}
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(alarm)
		synctest.Wait()
		status := d.wantSync(api.Synced)
		if status.Etcd.Healthy || status.Etcd.Error == "" {
			t.Errorf("etcd is %+v", status.Etcd)
		}
		if stalled := d.wantCondition(api.Stalled, "True", "EtcdAlarm"); stalled.Message != status.Etcd.Error {
			t.Errorf("the message is %q", stalled.Message)
		}
		if _, etcd, _ := d.Ready(); etcd.Healthy {
			t.Error("the readiness says that etcd is healthy")
		}
		d.etcd.change(func(f *storage) { f.health.Alarms, f.health.Error = nil, "" })
		synctest.Wait()
		d.wantCondition(api.Stalled, "False", "Progressing")
	})
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.etcd.report = syncedReport(d, time.Now())
		d.etcd.change(alarm)
		d.open()
		if status := d.wantSync(api.Unknown); status.Sync.Message != "etcd raises the alarm NOSPACE: its database is full" {
			t.Errorf("the message is %q", status.Sync.Message)
		}
		d.wantCondition(api.Stalled, "True", "EtcdAlarm")
	})
}

// An etcd that is away longer than its own elections take requires manual action.
func TestEtcdAwayStalls(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.etcd.change(func(f *storage) {
			f.health.Healthy, f.health.Error, f.awaySince = false, "nothing listens", time.Now()
		})
		d.pass(d.EtcdStalledAfter - time.Second)
		d.wantCondition(api.Stalled, "False", "Progressing")
		d.pass(time.Second)
		if stalled := d.wantCondition(api.Stalled, "True", "EtcdUnreachable"); stalled.Message != "etcd cannot be reached: nothing listens" {
			t.Errorf("the message is %q", stalled.Message)
		}
		d.wantCondition(api.Reconciling, "True", "Waiting")
		d.etcd.change(func(f *storage) { f.health.Healthy, f.health.Error, f.awaySince = true, "", time.Time{} })
		synctest.Wait()
		d.wantCondition(api.Stalled, "False", "Progressing")
	})
}

// A leader whose report another writer removed or replaced stores it again, and
// once a second at most.
func TestALostReportIsStoredAgain(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.pass(time.Minute)
		before := len(d.etcd.reports)
		for range 50 {
			d.etcd.change(func(f *storage) { f.reportLost = true })
			d.pass(100 * time.Millisecond)
		}
		if n := len(d.etcd.reports) - before; n < 4 || n > 7 {
			t.Errorf("%d reports in 5 s, want one a second", n)
		}
		d.pass(time.Second)
		if d.etcd.reportLost {
			t.Error("the report was not stored again")
		}
	})
}
