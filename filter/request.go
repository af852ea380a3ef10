package main

import (
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// request is the request that Envoy shows at the moment. It implements
// fault.Request; each answer is a host call, and so none is asked for twice
// (by package fault's promise, and within exempt by its own order).
type request struct{ now func() time.Time }

func (r *request) Method() string { return pseudoHeader(":method") }

func (r *request) Path() string { return pseudoHeader(":path") }

func (r *request) Now() time.Time { return r.now() }

// Header joins several values with commas, which by RFC 9110, 5.3, changes
// nothing in their meaning. The host call that reads one header gives the
// first value only, but costs half as much, and most requests do not have the
// header that a rule wants.
func (r *request) Header(name string) (string, bool) {
	if _, present := requestHeader(name); !present {
		return "", false
	}
	value, err := proxywasm.GetProperty([]string{"request", "headers", name})
	return string(value), err == nil
}

func pseudoHeader(name string) string {
	value, _ := requestHeader(name)
	return value
}

// probeAgents are how the User-Agents of health probes begin: of Kubernetes,
// of Envoy, and of the load balancers of the great clouds.
var probeAgents = []string{"kube-probe/", "Envoy/HC", "GoogleHC/", "ELB-HealthChecker/"}

// exempt says whether the request must not be faulted: it is a filter's own
// to the daemon, or a health probe.
func (v *vm) exempt() bool {
	if _, own := v.request.Header(api.HeaderVM); own {
		return true
	}
	if v.config.FaultProbes {
		return false
	}
	agent, _ := requestHeader("user-agent")
	for _, prefix := range probeAgents {
		if strings.HasPrefix(agent, prefix) {
			return true
		}
	}
	return false
}
