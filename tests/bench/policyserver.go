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

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/envoytest"
)

// policyOf returns the JSON of a policy.
func policyOf(name, match string, dryRun bool) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"selector": {"service": "shop", "namespace": "demo"}, "dry_run": %t,
		"rules": [{"match": %s, "fault": {"percentage": 100, "abort": {"status": 503}}}]}}`, name, dryRun, match))
}

// policySets are the policies of the measured filters. No rule except that of
// "delay" faults a request, so that all requests are handled alike.
var policySets = map[string][]json.RawMessage{
	"none":       {},
	"other-path": {policyOf("other", `{"path": {"exact": "/api/v1/shop/0008"}}`, false)},
	"one":        onePolicy,
	"thousand":   append(otherPolicies(999), onePolicy...),
	"delay":      {json.RawMessage(fmt.Sprintf(`{"metadata": {"name": "delay"}, "spec": {"rules": [{"fault": {"delay_ms": %d}}]}}`, configuredDelay.Milliseconds()))},
	"dry-run":    {policyOf("dry-run", `{"path": {"exact": "`+requestPath+`"}}`, true)},
}

// onePolicy matches the path of a request, but not its headers.
var onePolicy = []json.RawMessage{policyOf("one", `{"path": {"exact": "`+requestPath+`"}, "headers": [{"name": "x-user", "exact": "tester"}]}`, false)}

// otherPolicies returns similar policies for other paths.
func otherPolicies(count int) (policies []json.RawMessage) {
	for i := range count {
		match := fmt.Sprintf(`{"path": {"exact": "/api/v1/shop/%04d"}, "headers": [{"name": "x-user", "exact": "tester"}]}`, 1000+i)
		policies = append(policies, policyOf(fmt.Sprintf("other-%04d", i), match, false))
	}
	return policies
}

// policyServer is a fake daemon that serves many sets of policies at the same time:
// the Host of a request names the set.
type policyServer struct {
	server *httptest.Server
	ended  context.Context
	end    context.CancelFunc

	mu sync.Mutex
	// inForce has the VMs that reported a set as in force, by the set.
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

// forget clears the record of the VMs' sets in force.
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
		// A filter that got no response would send another request.
		w.Header().Set("Content-Type", program.MediaType)
		list, err := json.Marshal(map[string]any{"policies": policies})
		if err != nil {
			panic(err)
		}
		_, _ = w.Write([]byte(envoytest.MustProgram(string(list))))
		return
	}
	s.mu.Lock()
	s.inForce[set][r.Header.Get("X-Hfi-Vm")] = struct{}{}
	// That VM asks for the others of its Envoy too.
	for vm := range strings.SplitSeq(r.Header.Get("X-Hfi-Vms"), ",") {
		if vm != "" && !strings.Contains(vm, "=") {
			s.inForce[set][vm] = struct{}{}
		}
	}
	s.mu.Unlock()
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	select {
	case <-time.After(wait):
	case <-r.Context().Done():
	case <-s.ended.Done():
	}
	w.WriteHeader(http.StatusNotModified)
}

// awaitTaken waits until that number of VMs of each chain has its policies in force.
func (s *policyServer) awaitTaken(ctx context.Context, chains []chain, vms int) error {
	want := map[string]int{}
	for _, c := range chains {
		if c.set != "" {
			want[c.set] += vms
		}
	}
	return until(ctx, envoytest.WaitLimit, fmt.Sprintf("policies applied by %d VMs of each filter", vms), func() bool {
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
