package api

// The daemon's routes. All take GET and HEAD, except for RouteReconcile and
// RouteWebhook, which take POST.
const (
	RouteHealth  = "/health"
	RouteReady   = "/ready"
	RouteMetrics = "/metrics"
	// RoutePolicies lists policies. A policy's own route is RoutePolicies/NAME.
	RoutePolicies       = "/v1/policies"
	RoutePoliciesStatus = "/v1/policies/status"
	RouteStatus         = "/v1/status"
	RouteDrift          = "/v1/drift"
	RouteFilters        = "/v1/filters"
	RouteReconcile      = "/v1/reconcile"
	RouteWebhook        = "/v1/webhook"
	// RouteFilterModule is the daemon's filter module, whichever it is.
	RouteFilterModule = "/v1/filter.wasm"
	// RouteFilterModules is the folder of modules named by digest: see FilterModulePath.
	RouteFilterModules = "/v1/filter/"
)

// FilterModulePath is the route of the filter module with a SHA-256, in hex.
// What it answers never changes.
func FilterModulePath(sha256 string) string { return RouteFilterModules + sha256 + ".wasm" }

// The header names of the HTTP interface, in lower case as HTTP/2 and Envoy
// write them. Package net/http finds and writes them in its canonical form.
const (
	// HeaderCommit and HeaderRevision name the state that an answer comes from;
	// in a request, HeaderRevision is the newest state that the client has seen.
	HeaderCommit   = "x-hfi-commit"
	HeaderRevision = "x-hfi-revision"
	// HeaderNode, HeaderPod and HeaderVM identify the filter's VM that asks.
	HeaderNode = "x-hfi-node"
	HeaderPod  = "x-hfi-pod"
	HeaderVM   = "x-hfi-vm"
	// HeaderEnvoy is the version of the filter's Envoy, and HeaderError says why the
	// VM cannot enforce policies, if it cannot.
	HeaderEnvoy = "x-hfi-envoy"
	HeaderError = "x-hfi-error"
	// HeaderDirections has the directions of the requests that pass through the VM's
	// filters, DirectionInbound and DirectionOutbound, separated by a comma. Without it
	// they are inbound.
	HeaderDirections = "x-hfi-directions"
	// HeaderVMs names the other VMs of the same Envoy, for which that VM asks too,
	// at most MaxVMs. Each is its ID, alone if it has the policies of If-None-Match
	// in force, else followed by "=" and a VM's state: the ETag of those that it has
	// in force, VMWithout or VMGone. Commas separate them.
	HeaderVMs = "x-hfi-vms"
)

// The values in HeaderDirections.
const (
	DirectionInbound  = "inbound"
	DirectionOutbound = "outbound"
)

// The states of a VM in HeaderVMs, beside an ETag.
const (
	// VMWithout: it has no policies in force yet.
	VMWithout = "none"
	// VMGone: it has stopped or was replaced, and will not be named again.
	VMGone = "gone"
)

// MaxVMs bounds the VMs in HeaderVMs.
const MaxVMs = 256
