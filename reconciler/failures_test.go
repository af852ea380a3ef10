package reconciler_test

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// The consequence of a source's error decides what is done about it: Retry is
// tried again with growing waits, the others at the usual interval.
func TestSourceErrors(t *testing.T) {
	for _, test := range []struct {
		reason              string
		then                reconciler.Consequence
		retried, reachable  bool
		word                api.SyncState
		stalled, reconciles string
	}{
		{"Unreachable", reconciler.Retry, true, false, api.Unknown, "False", "True"},
		{"TimedOut", reconciler.Retry, true, false, api.Unknown, "False", "True"},
		{"ObjectMissing", reconciler.Retry, true, false, api.Unknown, "False", "True"},
		// A reachable repository reports what it does not have ...
		{"RepositoryEmpty", reconciler.WaitForPush, false, true, api.OutOfSync, "True", "False"},
		{"BranchMissing", reconciler.WaitForPush, false, true, api.OutOfSync, "True", "False"},
		// ... but without a repository nothing is known about the branch.
		{"RepositoryMissing", reconciler.Stalled, false, false, api.Unknown, "True", "False"},
		{"AuthenticationFailed", reconciler.Stalled, false, false, api.Unknown, "True", "False"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.push("a", policies("p"))
				d.open()
				seen, success := *d.Status().Source.LastSeenAt, *d.Status().Sync.LastSuccessAt
				d.pass(time.Second)
				began := time.Now()
				d.git.fail(func(f *repository) { f.headErr, f.headsAt = sourceError(test.reason, test.then), nil })
				d.git.notify()
				synctest.Wait()
				d.pass(4 * time.Second)

				var waits []time.Duration
				for i := 1; i < len(d.git.headsAt); i++ {
					waits = append(waits, d.git.headsAt[i].Sub(d.git.headsAt[i-1]))
				}
				want := []time.Duration(nil)
				if test.retried {
					want = []time.Duration{200, 400, 800, 1600}
					for i := range want {
						want[i] *= time.Millisecond
					}
				}
				if !slices.Equal(waits, want) {
					t.Errorf("waits between reads of the head are %v, want %v", waits, want)
				}
				status := d.wantSync(test.word)
				if status.Source.Reachable != test.reachable || !status.Source.LastSeenAt.Equal(seen) || !status.Sync.LastSuccessAt.Equal(success) {
					t.Errorf("reachable %v, last seen %v, success %v; times must not move on failure", status.Source.Reachable, status.Source.LastSeenAt, status.Sync.LastSuccessAt)
				}
				if e := status.Source.Error; e == nil || e.Reason != test.reason || e.Message != "reading the branch: something is wrong" || !e.Since.Equal(began) {
					t.Errorf("the error is %+v, want %s since %v", e, test.reason, began)
				}
				ready := d.condition(api.Ready)
				if test.word == api.Unknown && (ready.Status != "Unknown" || ready.Reason != test.reason) {
					t.Errorf("Ready is %s %s: it does not say what is missing", ready.Status, ready.Reason)
				}
				if got := d.condition(api.Stalled).Status; got != test.stalled {
					t.Errorf("Stalled is %s, want %s", got, test.stalled)
				}
				if got := d.condition(api.Reconciling).Status; got != test.reconciles {
					t.Errorf("Reconciling is %s, want %s", got, test.reconciles)
				}
				d.wantPublished("a")

				// Resolved without a trigger: the next poll finds out.
				d.git.fail(func(f *repository) { f.headErr = nil })
				d.pass(d.Interval)
				status = d.wantSync(api.Synced)
				if status.Source.Error != nil || !status.Source.Reachable {
					t.Errorf("resolved, but the error is %+v", status.Source.Error)
				}
				if len(status.History) != 1 {
					t.Errorf("the history is %+v: a failure to read git is not an outcome of a commit", status.History)
				}
			})
		})
	}
}

// A failure that lasts is logged when it begins, when it changes, once an hour,
// and when it ends, and not whenever git is read.
func TestALastingFailureIsLoggedOnce(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		var log logText
		d.Logger = slog.New(slog.NewTextHandler(&log, nil))
		logged := func(text string) int { return strings.Count(log.String(), text) }
		d.push("a", policies("p"))
		d.open()
		for _, failure := range []error{sourceError("BranchMissing", reconciler.WaitForPush), sourceError("Unreachable", reconciler.Retry)} {
			log.Reset()
			d.git.fail(func(f *repository) { f.headErr = failure })
			d.pass(50 * time.Minute)
			if n := logged("reconciling failed"); n != 1 {
				t.Errorf("%v is logged %d times in 50 minutes", failure, n)
			}
			d.pass(3 * time.Hour)
			if n := logged("reconciling failed"); n != 4 {
				t.Errorf("%v is logged %d times in almost four hours", failure, n)
			}
		}
		d.git.fail(func(f *repository) { f.headErr = nil })
		d.pass(10 * d.Interval)
		if n := logged("reconciling succeeded again"); n != 1 {
			t.Errorf("that it ended is logged %d times", n)
		}
	})
}

// logText collects what several goroutines log.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logText) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Reset()
}

// Waits do not grow beyond the interval, and start with the first again after a success.
func TestRetriesAreCapped(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.git.headErr = sourceError("Unreachable", reconciler.Retry)
		d.open()
		d.pass(10 * time.Minute)
		if n := len(d.git.headsAt); n < 20 || n > 70 {
			t.Errorf("%d reads of the head in ten minutes at an interval of 30s", n)
		}
		for i := 1; i < len(d.git.headsAt); i++ {
			if wait := d.git.headsAt[i].Sub(d.git.headsAt[i-1]); wait > d.Interval {
				t.Errorf("read %d of the head came after %s", i, wait)
			}
		}
		d.git.fail(func(f *repository) { f.headErr = nil })
		d.push("a", policies("p"))
		d.wantPublished("a")
		d.git.fail(func(f *repository) { f.headErr, f.headsAt = sourceError("Unreachable", reconciler.Retry), nil })
		d.git.notify()
		d.pass(d.RetryMin)
		if len(d.git.headsAt) != 2 {
			t.Errorf("%d reads of the head: after a success the first wait must be %s again", len(d.git.headsAt), d.RetryMin)
		}
	})
}

// A commit that cannot be read, and one on which the validator reaches no
// verdict, leave the published set as it is and are tried again.
func TestCommitWithoutAVerdict(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		d.git.fail(func(f *repository) { f.deltaErr = sourceError("ObjectMissing", reconciler.Retry) })
		d.push("b", policies("q"))
		if status := d.wantSync(api.Unknown); status.Source.LastAttemptedRevision.Commit != "a" {
			t.Errorf("attempted is %+v, though b was not read", status.Source.LastAttemptedRevision)
		}
		d.git.fail(func(f *repository) { f.deltaErr, f.applyErr = nil, errors.New("evaluation took over 10s") })
		d.pass(d.Interval)
		status := d.wantSync(api.OutOfSync)
		if status.Sync.Message != "evaluation took over 10s" || status.Source.Error != nil || len(status.History) != 1 {
			t.Errorf("message %q, source error %+v, history %+v", status.Sync.Message, status.Source.Error, status.History)
		}
		d.wantCondition(api.Reconciling, "True", "Retrying")
		d.wantPublished("a")
		d.git.fail(func(f *repository) { f.applyErr = nil })
		d.pass(d.Interval)
		d.wantPublished("b")
		d.wantSync(api.Synced)
	})
}

// While etcd accepts no write the commit stays unapplied, with growing waits
// between tries; the success time does not move.
func TestPublishFails(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.open()
		success := *d.Status().Sync.LastSuccessAt
		d.etcd.change(func(f *storage) { f.publishErr, f.publishAt = errors.New("etcd did not answer"), nil })
		d.pass(time.Second)
		d.push("b", policies("q"))
		d.pass(4 * time.Second)
		status := d.wantSync(api.OutOfSync)
		if n := len(d.etcd.publishAt); n != 5 {
			t.Errorf("%d tries in 4s, want 5 with doubling waits", n)
		}
		if !status.Sync.LastSuccessAt.Equal(success) || len(status.History) != 1 {
			t.Errorf("success %v, history %+v", status.Sync.LastSuccessAt, status.History)
		}
		d.wantCondition(api.Reconciling, "True", "Retrying")
		d.wantCondition(api.Stalled, "False", "Progressing")
		d.etcd.change(func(f *storage) { f.publishErr = nil })
		d.pass(d.Interval)
		d.wantPublished("b")
		d.wantCondition(api.Ready, "True", "Synced")
	})
}
