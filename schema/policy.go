// Package schema defines fault policies: their Go types, their canonical form,
// and the digest of a set of policies. policy.cue in this folder defines which
// policies are valid; package reconciler/cue evaluates it. This package imports
// only the standard library, so that the Wasm filter can import it.
package schema

import "time"

// Any is the selector value that matches every service or namespace.
const Any = "*"

// Policy is a fault policy: the workloads that it selects, and the faults that
// it injects into the requests that they receive or, if it is outbound, send.
type Policy struct {
	Metadata Metadata `json:"metadata"`
	Spec     Spec     `json:"spec"`
}

// Metadata names a policy.
type Metadata struct {
	// Name is a DNS-1123 label, unique in a policy repository.
	Name string `json:"name"`
}

// Spec is the content of a policy.
type Spec struct {
	Selector Selector `json:"selector"`
	// Direction is empty in canonical form if it is Inbound, the default.
	Direction Direction `json:"direction,omitempty"`
	// Rules has at least one rule. Each rule that matches a request makes its own random draw.
	Rules []Rule `json:"rules"`
	// ExpiresAt, if set, is when the filter stops applying the policy.
	ExpiresAt *time.Time `json:"expires_at,omitempty"`
	// DryRun reports that the faults are counted and not injected.
	DryRun bool `json:"dry_run,omitempty"`
}

// Direction says which requests of the selected workloads a policy faults.
type Direction string

// The directions.
const (
	// Inbound requests are those that the workloads receive.
	Inbound Direction = "inbound"
	// Outbound requests are those that the workloads send.
	Outbound Direction = "outbound"
)

// Selector selects workloads or gateways. In canonical form neither Service nor
// Namespace is empty: a missing value is Any.
type Selector struct {
	Service   string `json:"service"`
	Namespace string `json:"namespace"`
	// Gateway, if not empty, is the name of a gateway or Any. The policy then applies
	// to gateways only, and Service is Any; else it applies to no gateway.
	Gateway string `json:"gateway,omitempty"`
}

// Rule is a fault and the condition on the requests that get it. A nil Match
// matches every request.
type Rule struct {
	Match *Match `json:"match,omitempty"`
	Fault Fault  `json:"fault"`
}

// Match is a set of conditions on a request, all of which must hold.
type Match struct {
	// Methods are HTTP methods in upper case. The request must have one of them.
	Methods []string `json:"methods,omitempty"`
	// Path is compared with the request's path, without the query string.
	Path *StringMatch `json:"path,omitempty"`
	// Headers must all hold.
	Headers []HeaderMatch `json:"headers,omitempty"`
	// To is the destination of the request. Only an outbound policy has it.
	To *Destination `json:"to,omitempty"`
}

// Destination is what a request is sent to: a service, all services of a namespace,
// or a host. Host is set alone, and otherwise Service, Namespace or both.
type Destination struct {
	Service   string `json:"service,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	// Host is a DNS name in lower case, without a port.
	Host string `json:"host,omitempty"`
}

// StringMatch has exactly one of its fields set.
type StringMatch struct {
	Exact  *string `json:"exact,omitempty"`
	Prefix *string `json:"prefix,omitempty"`
	// Regex is an RE2 expression that must match the whole value.
	Regex *string `json:"regex,omitempty"`
}

// HeaderMatch is a condition on one header; exactly one of the conditions is set.
type HeaderMatch struct {
	// Name is in lower case in canonical form.
	Name string `json:"name"`
	StringMatch
	// Present requires the header to be present (true) or absent (false).
	Present *bool `json:"present,omitempty"`
}

// Fault is a delay, an abort, or a delay followed by an abort. At least one of
// the two is set. One random draw decides on both.
type Fault struct {
	Percentage Percentage `json:"percentage"`
	// DelayMS is in milliseconds; 0 means no delay.
	DelayMS int64  `json:"delay_ms,omitempty"`
	Abort   *Abort `json:"abort,omitempty"`
}

// Abort is a response sent in place of the upstream's, with an HTTP status
// (200–599) or a gRPC status (0–16). Exactly one of the two is set.
type Abort struct {
	Status     int               `json:"status,omitempty"`
	GRPCStatus *int              `json:"grpc_status,omitempty"`
	Body       string            `json:"body,omitempty"`
	Headers    map[string]string `json:"headers,omitempty"`
}

// Percentage is a share of requests in whole parts per million, 0 to
// 1,000,000. In JSON it is a percentage with up to four decimals.
type Percentage int32

// All is 100 %, the default percentage of a fault.
const All Percentage = 1_000_000
