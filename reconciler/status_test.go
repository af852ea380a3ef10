package reconciler_test

import (
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// While a repair is due later, the status is Reconciling; while drift is only
// reported, it is not.
func TestReconcilingWhileARepairIsDue(t *testing.T) {
	for mode, working := range map[string]string{reconciler.HealDrift: "True", reconciler.ReportDrift: "False"} {
		scenario(t, func(t *testing.T, d *daemon) {
			d.DriftMode = mode
			d.push("a", policies("p"))
			d.open()
			d.drift()
			d.pass(100 * time.Millisecond)
			d.drift() // The second repair has to wait.
			d.wantSync(api.OutOfSync)
			if condition := d.condition(api.Reconciling); condition.Status != working {
				t.Errorf("in drift mode %s: Reconciling is %s (%s), want %s", mode, condition.Status, condition.Message, working)
			}
		})
	}
}

// A leader that no longer reports, or this replica's own report from when it
// led, does not name the current leader.
func TestUnknownLeaderIsNotNamed(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.follower()
		d.etcd.change(func(f *storage) { f.report = &reconciler.LeaderReport{Leader: "one", At: time.Now()} })
		d.open()
		if leader := d.Status().Replica.Leader; leader != "one" {
			t.Errorf("the leader is %q, want one, who has just reported", leader)
		}
		d.pass(4 * d.Interval)
		if leader := d.Status().Replica.Leader; leader != "" {
			t.Errorf("the leader is %q after a long silence", leader)
		}
		d.etcd.change(func(f *storage) { f.report = &reconciler.LeaderReport{Leader: d.ID, At: time.Now()} })
		if leader := d.Status().Replica.Leader; leader != "" {
			t.Errorf("a follower names %q, itself, as the leader", leader)
		}
	})
}
