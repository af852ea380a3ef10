// Package envoytest runs a real, stock Envoy for tests and benchmarks: built
// from a bootstrap that Go code describes, on free loopback ports, with an
// upstream, clients and a load generator beside it.
package envoytest

import "time"

// Config says what an Envoy is started with. The zero value of every field
// has a use.
type Config struct {
	// Node is who this Envoy is.
	Node Node
	// Concurrency is the number of worker threads; 0 means one.
	Concurrency int
	// Listeners take requests, each on a free loopback port. There must be one at least.
	Listeners []Listener
	// Dynamic are listeners that can change while Envoy runs: see Envoy.SetDynamic.
	// Where it is nil there can never be any.
	Dynamic []Listener
	// Clusters are where requests go, the control plane's among them.
	Clusters []Cluster
	// StatsTags are added to PolicyTag, which every Envoy here has, and to Envoy's defaults.
	StatsTags []StatsTag
	// LogLevel is Envoy's own; empty means "info". See SetLogLevel for single loggers.
	LogLevel string
	// Arguments are further arguments of the command line.
	Arguments []string
	// Binary is Envoy's file; empty means the one that "make tools" fetched.
	Binary string
}

// Node is an Envoy's identity. The filter reads its metadata.
type Node struct {
	// ID and Cluster are "test" if left empty.
	ID, Cluster string
	// Metadata is any JSON object.
	Metadata map[string]any
}

// Workload is the node of a workload's sidecar, with the metadata that Istio gives it.
func Workload(service, namespace, pod string) Node {
	return Node{
		ID:       "sidecar~127.0.0.1~" + pod + "." + namespace + "~" + namespace + ".svc.cluster.local",
		Cluster:  service + "." + namespace,
		Metadata: map[string]any{"WORKLOAD_NAME": service, "NAMESPACE": namespace, "NAME": pod},
	}
}

// Listener takes HTTP/1.1 and, by prior knowledge, HTTP/2 on one port.
type Listener struct {
	// Name is unique in an Envoy; empty means "main".
	Name string
	// Filters are the HTTP filters before the router, in order.
	Filters []Filter
	// Routes are tried in order. With none, every request goes to the first cluster.
	Routes []Route
	// AccessLog is the format of a line in the access log; empty means no log.
	// See Envoy.AccessLog.
	AccessLog string
}

// Route sends requests to a cluster, or answers them itself.
type Route struct {
	// Prefix is of the path; empty means every path.
	Prefix string
	// Cluster is a cluster's name; empty means the first.
	Cluster string
	// Status, where it is not 0, answers the request with that status and no body.
	Status int
	// Timeout bounds a request; 0 means Envoy's default of 15 s, below 0 none.
	Timeout time.Duration
	// PerFilter is configuration for single filters on this route, by the filter's name.
	PerFilter map[string]map[string]any
}

// Cluster is one upstream server, or several alike.
type Cluster struct {
	// Name is unique in an Envoy.
	Name string
	// Address is HOST:PORT, the host an IP address.
	Address string
	// Others are further servers, written alike. Requests take turns between all.
	Others []string
	// HTTP2 speaks HTTP/2 to the server, by prior knowledge.
	HTTP2 bool
	// ConnectTimeout is 5 s if left 0.
	ConnectTimeout time.Duration
}

// StatsTag takes a tag out of the names of stats: the expression's first
// group is cut out of the name, the second is the tag's value.
type StatsTag struct{ Name, Regex string }

// PolicyTag is how a bootstrap makes a tag of the policy's name, which the
// filter puts first in the name of a stat. Istio makes the same expression of
// the annotation sidecar.istio.io/extraStatTags.
var PolicyTag = StatsTag{Name: "policy", Regex: `(policy=\.=(.*?);\.;)`}
