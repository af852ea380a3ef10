package http

import (
	"bytes"
	"encoding/json"
	nethttp "net/http"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

func (s *Server) health(w nethttp.ResponseWriter, _ *nethttp.Request) error {
	return writeJSON(w, nethttp.StatusOK, struct {
		Status string `json:"status"`
	}{"ok"})
}

// ready is 200 when policies are served from here, whatever etcd does.
func (s *Server) ready(w nethttp.ResponseWriter, _ *nethttp.Request) error {
	ready, etcd, reason := s.view.Ready()
	if ready && s.hub.current.Load() == nil {
		ready, reason = false, "there is no verified set of policies yet"
	}
	select {
	case <-s.draining:
		ready, reason = false, "this daemon is shutting down"
	default:
	}
	code := nethttp.StatusOK
	if !ready {
		code = nethttp.StatusServiceUnavailable
	}
	etcd.Endpoints = list(etcd.Endpoints)
	return writeJSON(w, code, struct {
		Ready  bool           `json:"ready"`
		Reason string         `json:"reason"`
		Etcd   api.EtcdStatus `json:"etcd"`
	}{ready, reason, etcd})
}

func (s *Server) status(w nethttp.ResponseWriter, r *nethttp.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	// The filters come last: whatever state the rest was seen in, they are
	// compared with that one or a later one.
	status := withLists(s.view.Status())
	filters, err := s.FleetStatus(r.Context())
	if err != nil {
		return err
	}
	status.Filters = filters.Bounded()
	if s.Cluster != nil {
		var set *schema.Set
		if snapshot := s.hub.current.Load(); snapshot != nil {
			set = snapshot.state.Set
		}
		status.Kubernetes = s.Cluster.Status(set, filters)
	}
	return writeJSON(w, nethttp.StatusOK, status)
}

func (s *Server) drift(w nethttp.ResponseWriter, r *nethttp.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	return writeJSON(w, nethttp.StatusOK, withLists(s.view.Status()).Drift)
}

// withLists is the status with empty lists where it has none: JSON's [] and
// not null. It changes no list, for they may be shared.
func withLists(status api.Status) api.Status {
	status.Source.Errors = list(status.Source.Errors)
	status.Source.Warnings = list(status.Source.Warnings)
	status.Etcd.Endpoints = list(status.Etcd.Endpoints)
	status.Drift.Items = list(status.Drift.Items)
	status.History = list(status.History)
	status.Conditions = list(status.Conditions)
	return status
}

func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// served is what is served, for a route without parameters, whose answer's
// headers tell it.
func (s *Server) served(w nethttp.ResponseWriter, r *nethttp.Request) (*snapshot, error) {
	if _, err := parameters(r); err != nil {
		return nil, err
	}
	snapshot := s.hub.current.Load()
	if snapshot == nil {
		return nil, notReady()
	}
	describe(w, snapshot)
	return snapshot, nil
}

// policy is the one policy that the path names: its canonical fields, and
// beside them the place in git where it was written.
func (s *Server) policy(w nethttp.ResponseWriter, r *nethttp.Request) error {
	snapshot, err := s.served(w, r)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(r.URL.Path, "/v1/policies/")
	entry := snapshot.state.Set.Get(name)
	if entry == nil {
		return notFound("no policy served is called %.80q", name)
	}
	origin, err := json.Marshal(entry.Origin)
	if err != nil {
		return err
	}
	text := append(bytes.TrimSuffix(bytes.Clone(entry.Canonical), []byte("}")), `,"origin":`...)
	return writeJSON(w, nethttp.StatusOK, json.RawMessage(append(append(text, origin...), '}')))
}

// PoliciesStatus is the answer of GET /v1/policies/status.
type PoliciesStatus struct {
	Summary  PoliciesSummary `json:"summary"`
	Policies []PolicyStatus  `json:"policies"`
}

// PoliciesSummary counts the policies served; one with both kinds of fault
// counts as both.
type PoliciesSummary struct {
	TotalPolicies  int `json:"total_policies"`
	AbortPolicies  int `json:"abort_policies"`
	DelayPolicies  int `json:"delay_policies"`
	ActivePolicies int `json:"active_policies"`
}

// PolicyStatus is one policy served.
type PolicyStatus struct {
	Name string `json:"name"`
	// Namespace and TargetService are the selector's.
	Namespace     string `json:"namespace"`
	TargetService string `json:"target_service"`
	RulesCount    int    `json:"rules_count"`
	// FaultTypes has delay, abort, or both.
	FaultTypes []string `json:"fault_types"`
	// Active: served, not expired, and not dry-run.
	Active bool `json:"active"`
	// Pods counts the pods targeted, where the daemon sees a cluster.
	Pods *int `json:"pods,omitempty"`
}

func (s *Server) policiesStatus(w nethttp.ResponseWriter, r *nethttp.Request) error {
	snapshot, err := s.served(w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, nethttp.StatusOK, s.withPods(statusOf(snapshot.state.Set, s.Now())))
}

// withPods counts the pods that each policy targets, where they are known.
func (s *Server) withPods(answer PoliciesStatus) PoliciesStatus {
	if s.Cluster == nil {
		return answer
	}
	for i := range answer.Policies {
		row := &answer.Policies[i]
		if count, known := s.Cluster.Pods(schema.Selector{Service: row.TargetService, Namespace: row.Namespace}); known {
			row.Pods = &count
		}
	}
	return answer
}

func statusOf(set *schema.Set, now time.Time) PoliciesStatus {
	answer := PoliciesStatus{Policies: make([]PolicyStatus, 0, set.Len())}
	for _, entry := range set.Entries() {
		spec := &entry.Policy.Spec
		row := PolicyStatus{
			Name:          entry.Name(),
			Namespace:     spec.Selector.Namespace,
			TargetService: spec.Selector.Service,
			RulesCount:    len(spec.Rules),
			FaultTypes:    []string{},
			Active:        !entry.Policy.Expired(now) && !spec.DryRun,
		}
		summary := &answer.Summary
		summary.TotalPolicies++
		if entry.Policy.HasDelay() {
			row.FaultTypes = append(row.FaultTypes, "delay")
			summary.DelayPolicies++
		}
		if entry.Policy.HasAbort() {
			row.FaultTypes = append(row.FaultTypes, "abort")
			summary.AbortPolicies++
		}
		if row.Active {
			summary.ActivePolicies++
		}
		answer.Policies = append(answer.Policies, row)
	}
	return answer
}
