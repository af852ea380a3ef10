package main

import (
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// request is the request of the current callback. It implements fault.Request.
// Each method is a host call, which package fault makes at most once.
type request struct {
	now func() time.Time
	// domain is that of the services of this node's cluster, or empty.
	domain string
	// path is the request's path, if it has been read.
	path string
	// to is where the request goes, if it has been read.
	to destination
	// in is the service that receives it in a waypoint, if it has been read.
	in destination
}

func (r *request) Method() string { return pseudoHeader(":method") }

func (r *request) Path() string {
	r.path = pseudoHeader(":path")
	return r.path
}

// own reports whether this is a filter's request to the daemon. Usually the path is known
// and says that it is not, which saves a call to the host.
func (r *request) own() bool {
	if r.path != "" && !ofPolicies(r.path) {
		return false
	}
	_, own := requestHeader(api.HeaderVM)
	return own && ofPolicies(r.Path())
}

// ofPolicies reports whether a path is that of a request for policies. A proxy may have put
// something before it.
func ofPolicies(path string) bool {
	if end := strings.IndexByte(path, '?'); end >= 0 {
		path = path[:end]
	}
	return strings.HasSuffix(path, api.RoutePolicies)
}

func (r *request) Now() time.Time { return r.now() }

// Header joins several values with commas, which does not change their meaning
// (RFC 9110, 5.3). requestHeader returns only the first value but costs half as
// much, and most requests do not have the header.
func (r *request) Header(name string) (string, bool) {
	if strings.HasPrefix(name, ":") {
		return r.destination(name)
	}
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

// probeAgents are the prefixes of the User-Agents of health probes. README.md says whose
// they are.
var probeAgents = []string{
	"kube-probe/", "Envoy/HC", "Consul Health Check", "GoogleHC/",
	"ELB-HealthChecker/", "Amazon-Route53-Health-Check-Service",
	"Load Balancer Agent", "Edge Health Probe", "Azure Traffic Manager Endpoint Monitor",
}

// exempt reports whether no fault must be injected into the request: it is a
// filter's request to the daemon, or a health probe.
func (v *vm) exempt(c *config) bool {
	if v.request.own() {
		return true
	}
	if c.FaultProbes {
		return false
	}
	agent, _ := requestHeader("user-agent")
	for _, prefix := range probeAgents {
		// The first byte tells most of them apart.
		if agent != "" && agent[0] == prefix[0] && strings.HasPrefix(agent, prefix) {
			return true
		}
	}
	return false
}
