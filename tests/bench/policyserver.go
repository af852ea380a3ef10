package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
)

// policyOf makes the JSON of a policy.
func policyOf(name, match string, dryRun bool) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"selector": {"service": "shop", "namespace": "demo"}, "dry_run": %t,
		"rules": [{"match": %s, "fault": {"percentage": 100, "abort": {"status": 503}}}]}}`, name, dryRun, match))
}

// policySets are what the filters that are measured have in force. No rule but
// that of "delay" faults a request, so that the requests of all go the same way.
var policySets = map[string][]json.RawMessage{
	"none":       {},
	"other-path": {policyOf("other", `{"path": {"exact": "/api/v1/shop/0008"}}`, false)},
	"one":        onePolicy,
	"thousand":   append(otherPolicies(999), onePolicy...),
	"delay":      {json.RawMessage(fmt.Sprintf(`{"metadata": {"name": "delay"}, "spec": {"rules": [{"fault": {"delay_ms": %d}}]}}`, askedDelay.Milliseconds()))},
	"dry-run":    {policyOf("dry-run", `{"path": {"exact": "`+askedPath+`"}}`, true)},
}

// onePolicy matches the path of a request, but not its headers.
var onePolicy = []json.RawMessage{policyOf("one", `{"path": {"exact": "`+askedPath+`"}, "headers": [{"name": "x-user", "exact": "tester"}]}`, false)}

// otherPolicies are alike, for other paths.
func otherPolicies(count int) (policies []json.RawMessage) {
	for i := range count {
		match := fmt.Sprintf(`{"path": {"exact": "/api/v1/shop/%04d"}, "headers": [{"name": "x-user", "exact": "tester"}]}`, 1000+i)
		policies = append(policies, policyOf(fmt.Sprintf("other-%04d", i), match, false))
	}
	return policies
}

// policyServer stands in for the daemon where many sets of policies are
// needed at once: the Host of a request says which one is asked for.
type policyServer struct {
	server *httptest.Server
	ended  context.Context
	end    context.CancelFunc

	mu sync.Mutex
	// inForce are the VMs that said that they have a set in force, by the set.
	inForce map[string]map[string]struct{}
}

func newPolicyServer() *policyServer {
	s := &policyServer{}
	s.ended, s.end = context.WithCancel(context.Background())
	s.forget()
	s.server = httptest.NewServer(http.HandlerFunc(s.serve))
	return s
}

func (s *policyServer) close() {
	s.end()
	s.server.Close()
}

func (s *policyServer) address() string { return strings.TrimPrefix(s.server.URL, "http://") }

// forget begins to note anew which VMs have what in force.
func (s *policyServer) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inForce = map[string]map[string]struct{}{}
	for set := range policySets {
		s.inForce[set] = map[string]struct{}{}
	}
}

func (s *policyServer) serve(w http.ResponseWriter, r *http.Request) {
	set, tag := r.Host, `"`+r.Host+`"`
	policies, known := policySets[set]
	if !known {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("ETag", tag)
	if r.Header.Get("If-None-Match") != tag {
		// A filter that gets no answer any more would ask again.
		_ = json.NewEncoder(w).Encode(map[string]any{"policies": policies})
		return
	}
	s.mu.Lock()
	s.inForce[set][r.Header.Get("X-Hfi-Vm")] = struct{}{}
	s.mu.Unlock()
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	select {
	case <-time.After(wait):
	case <-r.Context().Done():
	case <-s.ended.Done():
	}
	w.WriteHeader(http.StatusNotModified)
}

// awaitTaken waits until so many VMs of each chain have its policies in force.
func (s *policyServer) awaitTaken(ctx context.Context, chains []chain, vms int) error {
	want := map[string]int{}
	for _, c := range chains {
		if c.set != "" {
			want[c.set] += vms
		}
	}
	return until(ctx, envoytest.Patience, fmt.Sprintf("policies taken up by %d VMs of each filter", vms), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for set, count := range want {
			if len(s.inForce[set]) < count {
				return false
			}
		}
		return true
	})
}
