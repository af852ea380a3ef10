package reconciler_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// The guard against unintended pruning. Each row starts from a published set,
// and says which commits follow and which of them is published at the end.
func TestPruneGuard(t *testing.T) {
	for _, test := range []struct {
		name  string
		start int
		run   func(d *daemon)
		want  string
	}{
		{"emptying ten is refused", 10, func(d *daemon) { d.push("b", policies()) }, "a"},
		{"emptying nine passes", 9, func(d *daemon) { d.push("b", policies()) }, "b"},
		{"exactly half passes", 10, func(d *daemon) { d.push("b", policies(numbered(5)...)) }, "b"},
		{"one over half is refused", 10, func(d *daemon) { d.push("b", policies(numbered(4)...)) }, "a"},
		{"half of eleven, rounded up, is refused", 11, func(d *daemon) { d.push("b", policies(numbered(5)...)) }, "a"},
		{"changing all passes", 20, func(d *daemon) { d.push("b", delayed(7, numbered(20)...)) }, "b"},
		{"replacing all by others is refused", 10, func(d *daemon) {
			d.push("b", policies("q1", "q2", "q3", "q4", "q5", "q6", "q7", "q8", "q9", "q10"))
		}, "a"},
		{"a trailer in the commit lets it pass", 10, func(d *daemon) { d.push("b", policies(), allowPrune) }, "b"},
		{"a trailer in an invalid commit before lets it pass", 10, func(d *daemon) {
			d.pushInvalid("b", allowPrune)
			d.push("c", policies())
		}, "c"},
		{"a trailer in a commit pushed after the refusal lets it pass", 10, func(d *daemon) {
			d.push("b", policies())
			d.wantPublished("a")
			d.push("c", policies(), allowPrune)
		}, "c"},
		{"a trailer between refused commits counts for later ones", 10, func(d *daemon) {
			d.pushInvalid("b", allowPrune)
			d.pushInvalid("c")
			d.push("d", policies("x"))
		}, "d"},
		{"the trailer of a commit already applied is spent", 10, func(d *daemon) {
			d.push("b", delayed(9, numbered(10)...), allowPrune)
			d.push("c", policies())
		}, "b"},
		{"a refused commit stays refused when another is stacked on it", 10, func(d *daemon) {
			d.push("b", policies("x"))
			d.push("c", policies("x", "y"))
		}, "a"},
		{"reverting the refused commit is applied", 10, func(d *daemon) {
			d.push("b", policies())
			d.push("c", policies(numbered(10)...))
		}, "c"},
		{"restoring an earlier published state passes", 3, func(d *daemon) {
			d.push("b", policies(numbered(30)...))
			d.push("c", policies(numbered(3)...))
		}, "c"},
		{"but not the empty one that a repository begins with", 0, func(d *daemon) {
			d.push("b", policies(numbered(10)...))
			d.push("c", policies())
		}, "b"},
		{"a history that another writer forged does not count", 10, func(d *daemon) {
			for _, commit := range []string{"nowhere", "a", "b"} {
				d.forgeHistory(commit, policies("x"))
			}
			d.push("b", policies("x"))
		}, "a"},
	} {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, d *daemon) {
				d.push("a", policies(numbered(test.start)...))
				d.open()
				d.wantPublished("a")
				test.run(d)
				d.wantPublished(test.want)
			})
		})
	}
}

// A replica that has not served the earlier state itself takes git's word for
// it: an earlier commit of the branch with the same files.
func TestRestoringWhatAnotherReplicaServed(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies("p"))
		d.push("b", policies(numbered(30)...))
		d.etcd.state = stateOf("b", 1, 1, policies(numbered(30)...))
		d.forgeHistory("a", policies("p")) // It is no forgery.
		d.open()
		d.push("c", policies("p"))
		d.wantPublished("c")
		if restores := d.Status().History[0].Restores; restores != "a" {
			t.Errorf("it restores %q", restores)
		}
	})
}

// forgeHistory puts an entry into the store's history which says that a set was published.
func (d *daemon) forgeHistory(commit string, set *schema.Set) {
	d.etcd.change(func(f *storage) {
		f.history = append([]api.HistoryEntry{{Commit: commit, Outcome: api.Applied, Digest: set.Digest()}}, f.history...)
	})
}

// A refused commit is in the status, and once in the history.
func TestRefusedCommitIsReported(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies(numbered(12)...))
		d.open()
		d.push("b", policies(numbered(2)...))
		status := d.wantSync(api.OutOfSync)
		for _, part := range []string{"commit b", "10 of 12", `"hfi-allow-prune: true"`, "revert"} {
			if !strings.Contains(status.Sync.Message, part) {
				t.Errorf("the message %q does not say %q", status.Sync.Message, part)
			}
		}
		if got := status.Source.LastAttemptedRevision.Commit; got != "b" {
			t.Errorf("last attempted is %s, want b", got)
		}
		d.wantCondition(api.Stalled, "True", "PruneRefused")
		d.wantCondition(api.Ready, "False", "OutOfSync")
		d.pass(5 * d.Interval)
		if history := d.Status().History; len(history) != 2 || history[0].Outcome != api.Refused || history[0].Commit != "b" || history[0].Message == "" {
			t.Errorf("the history is %+v, want the refusal of b once, and a", history)
		}
		if taken := len(d.taken); taken != 1 {
			t.Errorf("%d states were served, want a's only", taken)
		}
	})
}

// If the commit itself has the trailer, no other commit is read.
func TestTrailerInHeadReadsNoOtherCommit(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies(numbered(12)...))
		d.open()
		d.git.fail(func(f *repository) { f.sinceErr = errors.New("git did not answer") })
		d.push("b", policies(), allowPrune)
		d.wantPublished("b")
	})
}

// If the commits since the published one cannot be read, the commit is neither
// published nor refused: it is tried again, and the failure's time does not move.
func TestGuardWithoutCommitsWaits(t *testing.T) {
	scenario(t, func(t *testing.T, d *daemon) {
		d.push("a", policies(numbered(12)...))
		d.open()
		d.git.fail(func(f *repository) {
			f.sinceErr = &reconciler.SourceError{Reason: "TimedOut", Consequence: reconciler.Retry, Err: errors.New("git did not answer")}
		})
		d.push("b", policies(numbered(1)...))
		d.wantPublished("a")
		first := d.Status().Source.Error
		if first == nil || first.Reason != "TimedOut" {
			t.Fatalf("the source's error is %+v, want TimedOut", first)
		}
		if history := d.Status().History; len(history) != 1 {
			t.Errorf("the history is %+v, want only a: there was no verdict on b", history)
		}
		d.pass(d.Interval)
		if later := d.Status().Source.Error; later == nil || !later.Since.Equal(first.Since) {
			t.Errorf("the failure began at %v, but the status says %+v", first.Since, later)
		}
		d.git.fail(func(f *repository) { f.sinceErr = nil })
		d.pass(d.Interval)
		if status := d.Status(); status.Source.Error != nil || status.History[0].Outcome != api.Refused {
			t.Errorf("once git answers, b must be refused: %+v, %+v", status.Source.Error, status.History)
		}
	})
}
