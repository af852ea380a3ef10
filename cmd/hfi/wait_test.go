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
		missing  bool
	}{
		{"just triggered", "", 0, false},
		{"after the grace period", "", stalledGrace, true},
		{"pushed by this command", "main", stalledGrace, false},
		{"pushed by this command to another branch", "other", stalledGrace, true},
	} {
		w := &waiter{
			commit: "bbbbbbbbbbbb", pushedTo: test.pushedTo, reads: enoughReads, triggered: time.Now().Add(-test.since),
			ancestry: map[[2]string]bool{},
			contains: func(context.Context, string, string) (bool, bool) { return false, true },
		}
		if err := w.notOnBranch(t.Context(), status); (err != nil) != test.missing {
			t.Errorf("%s: error %v, want one: %t", test.name, err, test.missing)
		}
	}
}
