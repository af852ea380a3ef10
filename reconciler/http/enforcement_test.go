package http

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Ready is False if no filter enforces what is served, though one should, and says why.
func TestReadyNeedsAFilterThatEnforces(t *testing.T) {
	const hour = time.Hour
	targeted := []api.PolicyPods{{Name: "expired", Pods: 3}, {Name: "warned", Pods: 2, WithoutFilterCount: 2, Warning: "no sidecar"}, {Name: "p", Pods: 2, WithoutFilterCount: 2}}
	unable := api.FilterStatus{FilterID: api.FilterID{Pod: "a"}, State: api.FilterUnable, Message: "its only VM cannot inject faults: Envoy 1.31 is not supported"}
	silent := api.FilterStatus{FilterID: api.FilterID{Pod: "b"}, State: api.FilterSilent}
	for name, c := range map[string]struct {
		filters  api.FiltersStatus
		policies []api.PolicyPods // nil outside a cluster
		applied  time.Duration    // how long ago
		sick     bool
		reason   string
		message  string
	}{
		"no filter outside a cluster": {api.FiltersStatus{Complete: true}, nil, hour, false, "Synced", ""},
		"all unable": {api.FiltersStatus{Complete: true, Connected: 2, Unable: 1, Silent: 1, Items: []api.FilterStatus{silent, unable}}, nil, 0, false,
			"NoFilterEnforces", "none of 2 can; the first, of pod a: its only VM cannot inject faults: Envoy 1.31 is not supported"},
		"all unable, as far as is known": {api.FiltersStatus{Connected: 1, Unable: 1, Items: []api.FilterStatus{unable}}, nil, hour, false, "Synced", ""},
		"one behind":                     {api.FiltersStatus{Complete: true, Connected: 2, Unable: 1, Behind: 1, Items: []api.FilterStatus{unable, {}}}, nil, hour, false, "Synced", ""},
		"pods targeted without a filter": {api.FiltersStatus{Complete: true}, targeted, hour, false, "NoFilterIsCurrent", "policy p targets running pods"},
		"since a moment":                 {api.FiltersStatus{Complete: true}, targeted, time.Second, false, "Synced", ""},
		"one is current":                 {api.FiltersStatus{Complete: true, Connected: 1, Current: 1, Items: []api.FilterStatus{{}}}, targeted, hour, false, "Synced", ""},
		"none targeted":                  {api.FiltersStatus{Complete: true}, targeted[:2], hour, false, "Synced", ""},
		"a cluster that does not answer": {api.FiltersStatus{Complete: true}, targeted, hour, true, "Synced", ""},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Now()
			s := &Server{Now: func() time.Time { return now }, began: now.Add(-hour)}
			status := func() *api.Status {
				made := &api.Status{Conditions: []api.Condition{
					{Type: api.Ready, Status: "True", Reason: "Synced", LastTransitionTime: now.Add(-2 * hour)}, {Type: api.Stalled, Status: "False"},
				}}
				made.Sync.LastAppliedRevision = &api.AppliedRevision{At: now.Add(-c.applied)}
				if c.policies != nil {
					made.Kubernetes.KubernetesView = &api.KubernetesView{Healthy: !c.sick, Policies: c.policies}
				}
				return made
			}
			before := status()
			shared := before.Conditions
			s.enforced(before, c.filters)
			ready := before.Conditions[0]
			if ready.Reason != c.reason || (ready.Status == "False") != (c.reason != "Synced") || !strings.Contains(ready.Message, c.message) {
				t.Errorf("got %+v", ready)
			}
			if shared[0].Status != "True" {
				t.Error("a list that may be shared was changed")
			}
			if ready.Status == "True" {
				return
			}
			// It says since when, also after it has ended.
			began := now
			now = now.Add(time.Minute)
			again := status()
			s.enforced(again, c.filters)
			if at := again.Conditions[0].LastTransitionTime; !ready.LastTransitionTime.Equal(began) || !at.Equal(began) {
				t.Errorf("the transition was at %s, then at %s, want %s", ready.LastTransitionTime, at, began)
			}
			good := status()
			s.enforced(good, api.FiltersStatus{Complete: true, Connected: 1, Current: 1})
			if at := good.Conditions[0].LastTransitionTime; good.Conditions[0].Status != "True" || !at.Equal(now) {
				t.Errorf("then %+v", good.Conditions[0])
			}
			bad := status()
			bad.Conditions[0].Status, bad.Conditions[0].Reason = "Unknown", "NotRead"
			s.enforced(bad, c.filters)
			if bad.Conditions[0].Reason != "NotRead" {
				t.Errorf("another reason was replaced: %+v", bad.Conditions[0])
			}
		})
	}
}

// While it is not known what all filters enforce, what was known last holds. A commit
// gives filters time only if some enforced what was served before it. All times are
// those at which this daemon saw a change.
func TestReadyKeepsWhatIsKnown(t *testing.T) {
	started := time.Now()
	now := started
	s := &Server{Now: func() time.Time { return now }, began: started.Add(-time.Hour)}
	policies := []api.PolicyPods{{Name: "p", Pods: 2, WithoutFilterCount: 2}}
	commit := "a"
	// Of another machine, whose clock is far ahead.
	applied := started.Add(24 * time.Hour)
	ready := func(filters api.FiltersStatus, healthy bool) api.Condition {
		status := &api.Status{Conditions: []api.Condition{{Type: api.Ready, Status: "True", Reason: "Synced", LastTransitionTime: started.Add(-time.Hour)}}}
		status.Sync.LastAppliedRevision = &api.AppliedRevision{Commit: commit, At: applied}
		status.Kubernetes.KubernetesView = &api.KubernetesView{Healthy: healthy, Policies: policies}
		s.enforced(status, filters)
		return status.Conditions[0]
	}
	none, unknown, current := api.FiltersStatus{Complete: true}, api.FiltersStatus{}, api.FiltersStatus{Complete: true, Connected: 1, Current: 1}
	want := func(when string, got api.Condition, reason string, since time.Time) {
		t.Helper()
		if got.Reason != reason || (got.Status == "True") != (reason == "Synced") || !got.LastTransitionTime.Equal(since) {
			t.Errorf("%s: got %+v, want %s since %s", when, got, reason, since)
		}
	}
	before := started.Add(-time.Hour)
	want("at first", ready(none, true), "Synced", before)
	now = now.Add(filterLoadTime)
	failed := now
	want("after a minute", ready(none, true), "NoFilterIsCurrent", failed)
	now = now.Add(time.Second)
	want("without a peer", ready(unknown, true), "NoFilterIsCurrent", failed)
	want("without the cluster", ready(none, false), "NoFilterIsCurrent", failed)
	now = now.Add(time.Second)
	commit = "b"
	want("after a commit that nothing enforces either", ready(none, true), "NoFilterIsCurrent", failed)
	now = now.Add(time.Second)
	enforced := now
	want("a filter is current", ready(current, true), "Synced", enforced)
	want("without a peer", ready(unknown, true), "Synced", enforced)
	want("one is current, and others are not known", ready(api.FiltersStatus{Connected: 2, Current: 1}, true), "Synced", enforced)
	now = now.Add(time.Hour)
	commit = "c"
	want("after a commit that is not loaded yet", ready(none, true), "Synced", enforced)
	now = now.Add(filterLoadTime)
	want("after another minute", ready(none, true), "NoFilterIsCurrent", now)
}
