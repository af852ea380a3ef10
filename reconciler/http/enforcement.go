package http

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// filterLoadTime is how long after a commit, or after this daemon's start, filters may
// take to load and to connect before Ready says that none is current.
const filterLoadTime = time.Minute

// enforcement remembers whether some filter enforced the policies when that was last known.
type enforcement struct {
	mu sync.Mutex
	// reason and message are why not, or empty, and since when it began or ended; zero if never.
	reason, message string
	since           time.Time
	// commit is the last applied one, applied when that was, and looked when it was last read.
	commit          string
	applied, looked time.Time
}

// appliedAt is when the commit was applied, by this machine's clock: between the last
// look, which saw another one, and this one. The caller holds the lock.
func (e *enforcement) appliedAt(last *api.AppliedRevision, now time.Time) time.Time {
	if e.applied.IsZero() || e.commit != last.Commit {
		e.commit, e.applied = last.Commit, last.At
		if e.applied.Before(e.looked) {
			e.applied = e.looked
		}
		if e.applied.After(now) {
			e.applied = now
		}
	}
	e.looked = now
	return e.applied
}

// enforced adds to the condition Ready whether filters enforce what is served. Package
// reconciler, which does not know the filters, has set it.
func (s *Server) enforced(status *api.Status, filters api.FiltersStatus) {
	now := s.Now()
	s.enforcement.mu.Lock()
	loading := now.Sub(s.began) < filterLoadTime
	if last := status.Sync.LastAppliedRevision; last == nil || now.Sub(s.enforcement.appliedAt(last, now)) < filterLoadTime {
		loading = true
	}
	reason, message, known := unenforced(status, filters, loading)
	if known {
		if (reason == "") != (s.enforcement.reason == "") {
			s.enforcement.since = now
		}
		s.enforcement.reason, s.enforcement.message = reason, message
	}
	reason, message = s.enforcement.reason, s.enforcement.message
	since := s.enforcement.since
	s.enforcement.mu.Unlock()

	status.Conditions = slices.Clone(status.Conditions)
	for i := range status.Conditions {
		ready := &status.Conditions[i]
		if ready.Type != api.Ready || ready.Status != "True" {
			continue
		}
		if reason != "" {
			ready.Status, ready.Reason, ready.Message = "False", reason, message
		}
		if since.After(ready.LastTransitionTime) {
			ready.LastTransitionTime = since
		}
	}
}

// unenforced returns why no filter enforces what is served: a reason for programs, and
// a message. Both are empty if one does, or none has to. It is not known while filters
// or pods are not, or filters may still be loading what is served.
func unenforced(status *api.Status, filters api.FiltersStatus, loading bool) (reason, message string, known bool) {
	switch {
	case filters.Current > 0:
		return "", "", true
	case !filters.Complete:
		return "", "", false
	case filters.Unable > 0 && filters.Unable+filters.Silent == filters.Connected:
		message := fmt.Sprintf("no filter enforces policies: none of %d can", filters.Connected)
		// The list may be cut.
		for _, item := range filters.Items {
			if item.State == api.FilterUnable {
				return "NoFilterEnforces", fmt.Sprintf("%s; the first, of pod %s: %s", message, item.Pod, item.Message), true
			}
		}
		return "NoFilterEnforces", message, true
	}
	view := status.Kubernetes.KubernetesView
	if view == nil {
		return "", "", true
	}
	if !view.Healthy {
		return "", "", false
	}
	for _, row := range view.Policies {
		if row.Warning == "" && row.Behind+row.WithoutFilterCount > 0 {
			return "NoFilterIsCurrent", fmt.Sprintf("no filter enforces the current policies, though policy %s targets running pods: see kubernetes.policies", row.Name), !loading
		}
	}
	return "", "", true
}
