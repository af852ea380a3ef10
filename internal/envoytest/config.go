// Package envoytest runs a stock Envoy on free loopback ports for tests and benchmarks. Go
// code describes its bootstrap. The package has an upstream, clients and a load generator.
package envoytest

import "time"

// Config is the configuration of an Envoy. The zero value of each field is valid.
type Config struct {
	// Node identifies this Envoy.
	Node Node
	// Concurrency is the number of worker threads; 0 means one.
	Concurrency int
	// Listeners accept requests, each on a free loopback port. At least one is required.
	Listeners []Listener
	// Dynamic are listeners that can change while Envoy runs: see Envoy.SetDynamic. If it
	// is nil, dynamic listeners are disabled.
	Dynamic []Listener
	// Clusters are the upstream clusters, including that of the control plane.
	Clusters []Cluster
	// StatsTags are added to PolicyTag and to Envoy's defaults.
	StatsTags []StatsTag
	// LogLevel is Envoy's log level. Empty means "info". See SetLogLevel for single loggers.
	LogLevel string
	// Arguments are further arguments of the command line.
	Arguments []string
	// Binary is the path of Envoy. Empty means the one that "make tools" downloads.
	Binary string
}

// Node is an Envoy's identity. The filter reads its metadata.
type Node struct {
	// ID and Cluster are "test" if empty.
	ID, Cluster string
	// Metadata is any JSON object.
	Metadata map[string]any
}

// Workload returns the node of a workload's sidecar, with the metadata that Istio sets.
func Workload(service, namespace, pod string) Node {
	return Node{
		ID:       "sidecar~127.0.0.1~" + pod + "." + namespace + "~" + namespace + ".svc.cluster.local",
		Cluster:  service + "." + namespace,
		Metadata: map[string]any{"WORKLOAD_NAME": service, "NAMESPACE": namespace, "NAME": pod},
	}
}

// Listener accepts HTTP/1.1 and, with prior knowledge, HTTP/2 on one port.
type Listener struct {
	// Name is unique in an Envoy; empty means "main".
	Name string
	// Chain is the name of the chain of filters, or empty.
	Chain string
	// Filters are the HTTP filters before the router, in order.
	Filters []Filter
	// Routes are tried in order. With none, every request goes to the first cluster.
	Routes []Route
	// StreamIdleTimeout ends a stream in which nothing happens for so long. 0 means Envoy's
	// default of 5 minutes.
	StreamIdleTimeout time.Duration
	// AccessLog is the format of a line in the access log; empty means no log.
	// See Envoy.AccessLog.
	AccessLog string
}

// Route forwards requests to a cluster, or responds itself.
type Route struct {
	// Prefix is a prefix of the path. Empty matches every path.
	Prefix string
	// Cluster is a cluster's name; empty means the first.
	Cluster string
	// Status, if it is not 0, is the status of a response without a body.
	Status int
	// Timeout limits the duration of a request. 0 means Envoy's default of 15 s, and a
	// negative value no limit.
	Timeout time.Duration
	// PerFilter is the configuration of filters on this route, by the filter's name.
	PerFilter map[string]map[string]any
}

// Cluster is one upstream server, or several equal ones.
type Cluster struct {
	// Name is unique in an Envoy.
	Name string
	// Address is HOST:PORT, the host an IP address.
	Address string
	// Others are more servers in the same form. Requests are distributed in turn.
	Others []string
	// HTTP2 uses HTTP/2 with prior knowledge.
	HTTP2 bool
	// ConnectTimeout is 5 s if it is 0.
	ConnectTimeout time.Duration
}

// StatsTag extracts a tag from the names of stats. The first group of the expression is
// removed from the name, the second is the value of the tag.
type StatsTag struct{ Name, Regex string }

// PolicyTag extracts the name of the policy, with which the filter begins the name of a
// stat. Istio generates the same expression from the annotation
// sidecar.istio.io/extraStatTags.
var PolicyTag = StatsTag{Name: "policy", Regex: `(policy=\.=(.*?);\.;)`}
