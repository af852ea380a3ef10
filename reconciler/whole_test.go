package reconciler_test

import (
	"testing"
	"testing/synctest"

	"github.com/boifi/hfi/internal/api"
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
