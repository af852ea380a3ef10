package main

import (
	"context"
	"errors"
	"strings"
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

// A pod that gets no filter, such as one that cannot be scheduled, ends the wait
// and is named. Others that have just started are waited for.
func TestWaitEndsForAPodThatGetsNoFilter(t *testing.T) {
	stuck := api.PodProblem{Namespace: "demo", Pod: "frontend-1", Reason: "no contact from its filter"}
	started := api.PodProblem{Namespace: "demo", Pod: "frontend-2", Reason: "no contact from its filter"}
	view := &api.KubernetesView{KeptNamespaces: []string{"demo"}, AwaitedPodsCount: 1, AwaitedPods: []api.PodProblem{stuck}}
	status := &api.Status{Kubernetes: api.KubernetesStatus{Enabled: true, KubernetesView: view}}
	w := &waiter{commit: "bbbbbbbbbbbb"}
	if done, _, err := w.deliveries(t.Context(), status); done || err != nil {
		t.Fatalf("at first: done %t, %v", done, err)
	}
	w.awaitedSince["demo/frontend-1"] = time.Now().Add(-podGrace)
	view.AwaitedPodsCount, view.AwaitedPods = 2, []api.PodProblem{stuck, started}
	_, _, err := w.deliveries(t.Context(), status)
	var ended *exitError
	if !errors.As(err, &ended) || ended.code != exitSilent || !strings.Contains(err.Error(), "pod demo/frontend-1: no contact from its filter") ||
		strings.Contains(err.Error(), "frontend-2") {
		t.Errorf("after %s: %v", podGrace, err)
	}
	view.AwaitedPodsCount, view.AwaitedPods = 1, []api.PodProblem{started}
	if done, note, err := w.deliveries(t.Context(), status); done || err != nil || note == "" {
		t.Errorf("without that pod: done %t, %q, %v", done, note, err)
	}
}

// Where the daemon delivers the filter, a pod that a policy targets is waited for and
// named. Elsewhere it is named only, and pods that no policy targets are neither.
func TestWaitForTargetedPods(t *testing.T) {
	elsewhere := api.PodProblem{Namespace: "shop", Pod: "frontend-1", Reason: "no contact from its filter"}
	view := &api.KubernetesView{
		KeptNamespaces: []string{"demo"},
		// The list of a policy's pods is cut, and may have none of those that are waited for.
		AwaitedPodsCount: 22, AwaitedPods: []api.PodProblem{{Namespace: "demo", Pod: "frontend-1", Reason: "no contact from its filter"}},
		Policies: []api.PolicyPods{
			{Name: "front", Pods: 30, WithoutFilterCount: 23, WithoutFilter: []api.PodProblem{elsewhere}},
			{Name: "catalog", Pods: 2, Current: 2},
		},
	}
	w := &waiter{}
	status := &api.Status{Kubernetes: api.KubernetesStatus{Enabled: true, KubernetesView: view}}
	expect := func(done bool, note string) {
		t.Helper()
		if got, text, err := w.deliveries(t.Context(), status); got != done || text != note || err != nil {
			t.Errorf("done %t, %q, %v; want %t, %q", got, text, err, done, note)
		}
	}
	expect(false, "22 targeted pods are without a filter yet: pod demo/frontend-1: no contact from its filter; and 21 more")
	if lines, total := withoutFilter(view); total != 23 || len(lines) != 1 || lines[0] != "pod shop/frontend-1: no contact from its filter" {
		t.Errorf("elsewhere: %d, %q", total, lines)
	}
	view.AwaitedPodsCount, view.AwaitedPods = 0, nil
	expect(true, "")
	// What the daemon does not know is not there.
	view.Error = "the cluster has not answered yet"
	expect(false, "the daemon may not know all pods: the cluster has not answered yet")
	view.KeptNamespaces = nil
	expect(true, "")
	if done, _, _ := w.deliveries(t.Context(), &api.Status{}); !done {
		t.Error("without Kubernetes it waits for pods")
	}
}
