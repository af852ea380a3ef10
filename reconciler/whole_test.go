package reconciler_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// A validator that needs all files of a commit gets them in the same attempt.
func TestWholeCommit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.wantPublished("a")
		d.git.fail(func(f *repository) { f.wholeOnly = true })
		d.push("b", policies("p"))
		synctest.Wait()
		d.wantPublished("b")
		d.wantSync(api.Synced)
		if d.git.openDeltas != 0 || d.git.wholes != 1 {
			t.Errorf("%d deltas are open, and %d were whole", d.git.openDeltas, d.git.wholes)
		}
	})
}

// When the limits change and the commit does not, its verdict is taken again: what is served
// stays served, the status says that it is not valid any more, and what was refused is applied.
func TestLimitsChange(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		synctest.Wait()
		d.wantPublished("a")
		valid := d.git.sets["a"]
		d.git.fail(func(f *repository) {
			f.sets["a"] = &schema.Verdict{Errors: []schema.Problem{{File: "p.yaml", Line: 1, Column: 1, Message: "60 is more than the limit of 50"}}}
			f.stale = true
		})
		d.pass(d.Interval)
		d.wantPublished("a")
		d.wantSync(api.OutOfSync)
		stalled := d.wantCondition(api.Stalled, "True", "NoLongerValid")
		if !strings.Contains(stalled.Message, "commit a stays served, but it is not valid any more: p.yaml:1:1: 60 is more") {
			t.Errorf("the condition is %+v", stalled)
		}
		status := d.Status()
		if len(status.Source.Errors) != 1 || status.Source.Errors[0].File != "p.yaml" || len(status.History) != 1 {
			t.Errorf("the errors are %v and the history %v", status.Source.Errors, status.History)
		}
		// The same limits are not looked at again.
		deltas := d.git.deltas
		d.pass(3 * d.Interval)
		if d.git.deltas != deltas {
			t.Error("the commit was validated again")
		}
		d.git.fail(func(f *repository) { f.sets["a"], f.stale = valid, true })
		d.pass(d.Interval)
		d.wantSync(api.Synced)
		// A commit that was refused is applied when the limits allow it.
		d.pushInvalid("b")
		d.pass(d.Interval)
		d.wantPublished("a")
		d.git.fail(func(f *repository) { f.sets["b"], f.stale = &schema.Verdict{Set: policies("p", "q")}, true })
		d.pass(d.Interval)
		d.wantPublished("b")
		d.wantSync(api.Synced)
	})
}
