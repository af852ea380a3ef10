package reconciler_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// problems are n problems, by place, with messages of size bytes.
func problems(n, size int) []schema.Problem {
	var all []schema.Problem
	for i := range n {
		all = append(all, schema.Problem{File: fmt.Sprintf("policies/%05d.yaml", i), Line: 1, Column: 1, Message: strings.Repeat("<", size)})
	}
	return all
}

// The problems of a commit are stored in one value of etcd, of at most 1.5 MiB:
// however many there are, the followers get the first ones and the total.
func TestProblemsAreBounded(t *testing.T) {
	for _, test := range []struct {
		name             string
		count, size      int
		wantMin, wantMax int
	}{
		{"few", 3, 100, 3, 3},
		{"ten thousand bad files", 10_000, 60, 1000, 1000},
		{"long sentences", 10_000, 1500, 10, 999},
		{"one that is far too long", 1, 4 << 20, 1, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.push("a", policies("p"))
				d.open()
				all := problems(test.count, test.size)
				d.git.commit(reconciler.Commit{Hash: "b"}, &schema.Verdict{Errors: all, Warnings: all})
				synctest.Wait()
				source := d.wantSync(api.OutOfSync).Source
				for kind, got := range map[string]struct {
					listed []schema.Problem
					total  int
				}{"errors": {source.Errors, source.ErrorsTotal}, "warnings": {source.Warnings, source.WarningsTotal}} {
					if n := len(got.listed); n < test.wantMin || n > test.wantMax || got.total != test.count {
						t.Fatalf("%d %s of %d, want %d to %d of %d", n, kind, got.total, test.wantMin, test.wantMax, test.count)
					}
					for i, problem := range got.listed {
						if problem.File != all[i].File || !strings.HasPrefix(problem.Message, "<<<") {
							t.Fatalf("number %d of the %s is %.100s, want %.100s", i, kind, problem, all[i])
						}
					}
				}
				d.wantCondition(api.Stalled, "True", "InvalidCommit")
				report, err := json.Marshal(d.etcd.reports[len(d.etcd.reports)-1])
				if err != nil || len(report) > 1300<<10 {
					t.Errorf("the report has %d bytes (%v)", len(report), err)
				}
				entry, err := json.Marshal(d.etcd.history[0])
				if err != nil || len(entry) > 64<<10 {
					t.Errorf("the history's entry has %d bytes (%v)", len(entry), err)
				}
			})
		})
	}
}

// The totals are right for a report of an earlier version without them, and a
// report that fails is logged.
func TestReportsOfOthersAndFailedReports(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		var log strings.Builder
		d.Logger = slog.New(slog.NewTextHandler(&log, nil))
		d.etcd.elected = make(chan struct{}, 1)
		d.etcd.report = &reconciler.LeaderReport{Leader: "old", Source: api.SourceStatus{URL: "u", Errors: problems(3, 1), Warnings: problems(2, 1)}}
		d.open()
		if source := d.Status().Source; source.ErrorsTotal != 3 || source.WarningsTotal != 2 {
			t.Errorf("the totals are %d and %d", source.ErrorsTotal, source.WarningsTotal)
		}
		d.etcd.change(func(f *storage) { f.reportErr = errors.New("etcd has no room") })
		d.etcd.elected <- struct{}{}
		d.push("a", policies("p"))
		d.wantPublished("a")
		if !strings.Contains(log.String(), "etcd has no room") {
			t.Errorf("a failed report is not logged: %s", log.String())
		}
	})
}
