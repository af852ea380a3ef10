package http

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/served"
	"github.com/boifi/hfi/schema"
)

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

// ready is 200 if this replica serves policies, whatever the state of etcd.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) error {
	ready, etcd, reason := s.view.Ready()
	if ready && s.hub.current.Load() == nil {
		ready, reason = false, "there is no verified set of policies yet"
	}
	select {
	case <-s.draining:
		ready, reason = false, "this daemon is shutting down"
	default:
	}
	code := http.StatusOK
	if !ready {
		code = http.StatusServiceUnavailable
	}
	etcd = etcd.WithLists()
	return writeJSON(w, code, api.Readiness{Ready: ready, Reason: reason, Etcd: etcd})
}

func (s *Server) status(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	// The filters come last: they are compared with the state that the rest of
	// the status shows, or a later one.
	status := s.view.Status().WithLists()
	status.Replica.Connections = s.connectionsStatus()
	filters, err := s.fleetStatus(r)
	if err != nil {
		return err
	}
	status.Filters = filters.Bounded()
	if s.Cluster != nil {
		var set *schema.Set
		if snapshot := s.hub.current.Load(); snapshot != nil {
			set = snapshot.State.Set
		}
		status.Kubernetes = s.Cluster.Status(set, filters.FiltersStatus, filters.ClusterReport)
	}
	s.enforced(&status, filters.FiltersStatus)
	return writeJSON(w, http.StatusOK, status)
}

func (s *Server) drift(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.view.Status().WithLists().Drift)
}

// current returns the current snapshot for a route without parameters, and
// names it in the answer's headers.
func (s *Server) current(w http.ResponseWriter, r *http.Request) (*served.Snapshot, error) {
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

// policy is GET /v1/policies/{name}: the policy's canonical fields, and its
// origin in git beside them.
func (s *Server) policy(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.current(w, r)
	if err != nil {
		return err
	}
	name := r.PathValue("name")
	entry := snapshot.State.Set.Get(name)
	if entry == nil {
		return notFound("no policy named %.80q is served", name)
	}
	origin, err := json.Marshal(entry.Origin)
	if err != nil {
		return err
	}
	text := append(bytes.TrimSuffix(bytes.Clone(entry.Canonical), []byte("}")), `,"origin":`...)
	return writeJSON(w, http.StatusOK, json.RawMessage(append(append(text, origin...), '}')))
}

func (s *Server) policiesStatus(w http.ResponseWriter, r *http.Request) error {
	snapshot, err := s.current(w, r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, s.withPods(statusOf(snapshot.State.Set, s.Now())))
}

// withPods adds the number of pods that each policy targets, where it is known.
func (s *Server) withPods(answer api.PoliciesStatus) api.PoliciesStatus {
	if s.Cluster == nil {
		return answer
	}
	for i := range answer.Policies {
		row := &answer.Policies[i]
		if count, known := s.Cluster.Pods(schema.Selector{Service: row.TargetService, Namespace: row.Namespace, Gateway: row.Gateway}); known {
			row.Pods = &count
		}
	}
	return answer
}

func statusOf(set *schema.Set, now time.Time) api.PoliciesStatus {
	answer := api.PoliciesStatus{Policies: make([]api.PolicyStatus, 0, set.Len())}
	for _, entry := range set.Entries() {
		spec := &entry.Policy.Spec
		row := api.PolicyStatus{
			Name:          entry.Name(),
			Namespace:     spec.Selector.Namespace,
			TargetService: spec.Selector.Service,
			Gateway:       spec.Selector.Gateway,
			Direction:     string(cmp.Or(spec.Direction, schema.Inbound)),
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
