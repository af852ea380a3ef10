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
