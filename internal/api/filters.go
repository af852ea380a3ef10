//go:build !wasm

// The filter needs only the routes and header names.

package api

import (
	"slices"
	"time"
)

// FiltersStatus describes the filters, as all replicas together see them.
type FiltersStatus struct {
	// Connected counts the known filters: Current, Behind, Unable and Silent together.
	Connected int `json:"connected"`
	Current   int `json:"current"`
	Behind    int `json:"behind"`
	Unable    int `json:"unable"`
	Silent    int `json:"silent"`
	// Unknown counts those of pods that the cluster does not have. They are
	// listed, and are not among the connected ones.
	Unknown int `json:"unknown"`
	// Items lists the filters: silent ones first, then those that are unable to
	// enforce policies, then those behind. In an answer of the daemon it is cut to MaxFilterItems.
	Items []FilterStatus `json:"items"`
	// Replicas are the daemons that were asked for their filters.
	Replicas []Replica `json:"replicas"`
	// Complete: every replica answered, and remembers all of its filters.
	Complete bool `json:"complete"`
	// Message says why not, unless a replica's Error does.
	Message string `json:"message,omitempty"`
}

// MaxFilterItems bounds FiltersStatus.Items in an answer of the daemon.
const MaxFilterItems = 1000

// Bounded returns the status with at most MaxFilterItems Items.
func (s FiltersStatus) Bounded() FiltersStatus {
	if len(s.Items) > MaxFilterItems {
		// A copy, so that the rest can be freed.
		s.Items = slices.Clone(s.Items[:MaxFilterItems])
	}
	return s
}

// Replica is one of the daemons that share a store.
type Replica struct {
	ID string `json:"id"`
	// URL is the base URL at which its peers reach it, or empty if not known.
	URL string `json:"url"`
	// Error is why it could not be asked, or empty.
	Error string `json:"error,omitempty"`
}

// FilterState says whether a filter enforces the current policies.
type FilterState string

// The states of a filter.
const (
	// FilterCurrent: every VM enforces the workload's current selection.
	FilterCurrent FilterState = "Current"
	// FilterBehind: some VM enforces another selection, or its state is not known.
	FilterBehind FilterState = "Behind"
	// FilterSilent: some VM has stopped asking, and so enforces nothing.
	FilterSilent FilterState = "Silent"
	// FilterUnable: some VM says that it cannot enforce policies, and why.
	FilterUnable FilterState = "Unable"
	// FilterUnknown: the Kubernetes cluster is known, and has no such pod, and the
	// filter has not asked for long enough to count anyway.
	FilterUnknown FilterState = "Unknown"
)

// FilterID identifies a filter, as it does itself in each request. A sidecar
// has one VM for each worker thread and one for the main thread; the VMs that
// send the same FilterID are one filter.
type FilterID struct {
	Node      string `json:"node"`
	Pod       string `json:"pod"`
	Service   string `json:"service"`
	Namespace string `json:"namespace"`
	// Gateway is the name of a gateway, whose Service is empty, or * if the name is
	// unknown. It is empty for other workloads.
	Gateway string `json:"gateway,omitempty"`
	// Waypoint is the same for a waypoint.
	Waypoint string `json:"waypoint,omitempty"`
}

// FilterStatus is one filter: all VMs of one sidecar.
type FilterStatus struct {
	FilterID
	// Digest is that of the policies in force, or empty if there are none. If
	// the filter is behind, it is that of one VM that is behind.
	Digest string      `json:"digest"`
	State  FilterState `json:"state"`
	// Since is when Digest came into force (in all VMs, if Current); if the
	// state is Silent, it is when the VM last asked.
	Since time.Time `json:"since"`
	VMs   VMCounts  `json:"vms"`
	// Envoy is the version of its Envoy, such as 1.40, or empty if it does not say it.
	Envoy string `json:"envoy,omitempty"`
	// Directions are those of the requests that its filters see: DirectionInbound,
	// DirectionOutbound or both, in this order, as far as all VMs that ask have them.
	Directions []string `json:"directions,omitempty"`
	// Replicas are the IDs of the replicas that its VMs asked last.
	Replicas []string `json:"replicas"`
	// Message says what is wrong, or is empty.
	Message string `json:"message,omitempty"`
}

// VMCounts counts a filter's VMs.
type VMCounts struct {
	Total   int `json:"total"`
	Current int `json:"current"`
	Behind  int `json:"behind"`
	Unable  int `json:"unable"`
	Silent  int `json:"silent"`
}
