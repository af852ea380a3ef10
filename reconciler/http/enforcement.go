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

// enforcement remembers whether some filter enforced the policies at the last look.
type enforcement struct {
	mu sync.Mutex
	// reason is why not, or empty, and since when it began or ended; zero if never.
	reason string
	since  time.Time
}

// enforced adds to the condition Ready whether filters enforce what is served. Package
// reconciler, which does not know the filters, has set it.
func (s *Server) enforced(status *api.Status, filters api.FiltersStatus) {
	now := s.Now()
	reason, message := s.unenforced(status, filters, now)
	s.enforcement.mu.Lock()
	if (reason == "") != (s.enforcement.reason == "") {
		s.enforcement.since = now
	}
	s.enforcement.reason = reason
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
// a message. Both are empty if one does, or none has to, or if it is not known.
func (s *Server) unenforced(status *api.Status, filters api.FiltersStatus, now time.Time) (reason, message string) {
	switch {
	case !filters.Complete || filters.Current > 0:
		return "", ""
	case filters.Unable > 0 && filters.Unable+filters.Silent == filters.Connected:
		message := fmt.Sprintf("no filter enforces policies: none of %d can", filters.Connected)
		// The list may be cut.
		for _, item := range filters.Items {
			if item.State == api.FilterUnable {
				return "NoFilterEnforces", fmt.Sprintf("%s; the first, of pod %s: %s", message, item.Pod, item.Message)
			}
		}
		return "NoFilterEnforces", message
	}
	applied := status.Sync.LastAppliedRevision
	if applied == nil || now.Sub(applied.At) < filterLoadTime || now.Sub(s.began) < filterLoadTime {
		return "", ""
	}
	if view := status.Kubernetes.KubernetesView; view != nil && view.Healthy {
		for _, row := range view.Policies {
			if row.Warning == "" && row.Behind+row.WithoutFilterCount > 0 {
				return "NoFilterIsCurrent", fmt.Sprintf("no filter enforces the current policies, though policy %s targets running pods: see kubernetes.policies", row.Name)
			}
		}
	}
	return "", ""
}
