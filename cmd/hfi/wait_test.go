package main

import (
	"context"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// A commit that the daemon does not see may have been pushed: a mirror can lag.
func TestACommitIsMissingOnlyAfterAGracePeriod(t *testing.T) {
	status := &api.Status{
		Source:     api.SourceStatus{Branch: "main", LastAttemptedRevision: &api.CommitRef{Commit: "aaaaaaaaaaaa"}},
		Conditions: []api.Condition{{Type: api.Reconciling, Status: "False"}},
	}
	for _, test := range []struct {
		name     string
		pushedTo string
		since    time.Duration
		unknown  bool
		missing  string
	}{
		{"just triggered", "", 0, false, ""},
		{"after the grace period", "", stalledGrace, false, "bbbbbbbbbbbb is not on main, which is at aaaaaaaaaaaa: did you push?"},
		{"pushed by this command", "main", unknownGrace, false, ""},
		{"pushed by this command to another branch", "other", stalledGrace, false, "bbbbbbbbbbbb is not on main, which is at aaaaaaaaaaaa: did you push?"},
		{"the repository here does not say it", "", stalledGrace, true, ""},
		{"the repository here does not say it, after a longer one", "", unknownGrace, true, "bbbbbbbbbbbb is not main's head, which is aaaaaaaaaaaa, nor in the daemon's history: " +
			"did you push? If a later commit contains it, wait for that one, or in a complete clone"},
	} {
		w := &waiter{
			commit: "bbbbbbbbbbbb", pushedTo: test.pushedTo, reads: enoughReads, triggered: time.Now().Add(-test.since),
			ancestry: map[[2]string]bool{},
			contains: func(context.Context, string, string) (bool, bool) { return false, !test.unknown },
		}
		got := ""
		if err := w.notOnBranch(t.Context(), status); err != nil {
			got = err.Error()
		}
		if got != test.missing {
			t.Errorf("%s: error %q, want %q", test.name, got, test.missing)
		}
	}
}
