//go:build !wasm

// The filter needs only the routes and header names.

package api

import (
	"slices"
	"time"
)

// FiltersStatus is the fleet of filters, as all replicas together see it.
type FiltersStatus struct {
	// Connected counts the filters known: Current, Behind and Silent together.
	Connected int `json:"connected"`
	Current   int `json:"current"`
	Behind    int `json:"behind"`
	Silent    int `json:"silent"`
	// Items lists the first MaxFilterItems, those that need a look first.
	Items []FilterStatus `json:"items"`
	// Replicas are the daemons that were asked which filters wait on them.
	Replicas []Replica `json:"replicas"`
	// Complete: all of them answered, and each remembers all of its filters.
	Complete bool `json:"complete"`
	// Message says why not, where no replica's error does.
	Message string `json:"message,omitempty"`
	// Told is what the leading replica said of the cluster when it was asked
	// for its filters, or nil if it is this one, or is not heard of.
	Cluster *ClusterReport `json:"-"`
}

// MaxFilterItems bounds FiltersStatus.Items.
const MaxFilterItems = 1000

// Bounded is the status with the first MaxFilterItems of its Items.
func (s FiltersStatus) Bounded() FiltersStatus {
	if len(s.Items) > MaxFilterItems {
		// A copy, for the rest is not to be kept.
		s.Items = slices.Clone(s.Items[:MaxFilterItems])
	}
	return s
}

// Replica is one of the daemons that share a store.
type Replica struct {
	ID string `json:"id"`
	// URL is where its peers reach it, or empty if it does not say.
	URL string `json:"url"`
	// Error is why it could not be asked, or empty.
	Error string `json:"error,omitempty"`
}

// FilterState says whether a filter enforces the present policies.
type FilterState string

// The states of a filter.
const (
	// FilterCurrent: every VM of it has its present selection in force.
	FilterCurrent FilterState = "Current"
	// FilterBehind: some VM has another one in force, or cannot be told of.
	FilterBehind FilterState = "Behind"
	// FilterSilent: some VM has stopped asking, and so enforces nothing.
	FilterSilent FilterState = "Silent"
)

// FilterID is what a filter says of itself with each request. A sidecar has
// one VM for each worker and one more; those that agree in all of this are
// one filter.
type FilterID struct {
	Node      string `json:"node"`
	Pod       string `json:"pod"`
	Service   string `json:"service"`
	Namespace string `json:"namespace"`
}

// FilterStatus is one filter: all VMs of one sidecar.
type FilterStatus struct {
	FilterID
	// Digest is of the policies in force; of a filter that is behind, of one of
	// the VMs that are. Empty: none are.
	Digest string      `json:"digest"`
	State  FilterState `json:"state"`
	// Since is from when on that digest was in force (in all VMs, if Current),
	// or, if Silent, when the VM was last heard of.
	Since time.Time `json:"since"`
	VMs   VMCounts  `json:"vms"`
	// Replicas are the IDs of those that its VMs asked last.
	Replicas []string `json:"replicas"`
	// Message says what is wrong, if anything is.
	Message string `json:"message,omitempty"`
}

// VMCounts counts a filter's VMs.
type VMCounts struct {
	Total   int `json:"total"`
	Current int `json:"current"`
	Behind  int `json:"behind"`
	Silent  int `json:"silent"`
}
