//go:build !wasm

// The filter needs only the routes and header names.

package api

// PoliciesStatus is the answer of GET /v1/policies/status.
type PoliciesStatus struct {
	Summary  PoliciesSummary `json:"summary"`
	Policies []PolicyStatus  `json:"policies"`
}

// PoliciesSummary counts the policies served. A policy with both kinds of
// fault counts as both.
type PoliciesSummary struct {
	TotalPolicies  int `json:"total_policies"`
	AbortPolicies  int `json:"abort_policies"`
	DelayPolicies  int `json:"delay_policies"`
	ActivePolicies int `json:"active_policies"`
}

// PolicyStatus is one policy served.
type PolicyStatus struct {
	Name string `json:"name"`
	// Namespace and TargetService are the selector's.
	Namespace     string `json:"namespace"`
	TargetService string `json:"target_service"`
	// Gateway is the selector's, or empty.
	Gateway    string `json:"gateway,omitempty"`
	RulesCount int    `json:"rules_count"`
	// FaultTypes has delay, abort, or both.
	FaultTypes []string `json:"fault_types"`
	// Active: served, not expired, and not a dry run.
	Active bool `json:"active"`
	// Direction is inbound or outbound.
	Direction string `json:"direction"`
	// Pods counts the pods targeted, or is nil where the daemon does not know them.
	Pods *int `json:"pods,omitempty"`
}
