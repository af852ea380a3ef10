package fleet

import (
	"net/netip"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// ReplicaReport is what one replica knows of the filters: the answer of
// GET /v1/filters?local=true, which replicas send each other. All times in it
// are ages, so that the replicas' clocks need not agree.
type ReplicaReport struct {
	Replica string       `json:"replica"`
	Filters []FilterSeen `json:"filters"`
	reportState
	// Age is how long ago the report was received. All ages in it are that much greater now.
	Age time.Duration `json:"-"`
}

// reportState is what a report says beside the filters.
type reportState struct {
	// Full: more VMs asked than the replica remembers.
	Full bool `json:"full,omitempty"`
	// LostAgo is how long ago it saw another replica leave; zero if never.
	LostAgo time.Duration `json:"lost_ago_ns,omitempty"`
	// Kubernetes is what it found out about the cluster, if it leads.
	Kubernetes *api.ClusterReport `json:"kubernetes,omitempty"`
}

// FilterSeen is what one replica knows of one filter.
type FilterSeen struct {
	api.FilterID
	VMs []VMSeen `json:"vms"`
}

// VMSeen is what one replica knows of one VM.
type VMSeen struct {
	// ID is a hash of the name by which it asks.
	ID string `json:"id"`
	// Address is where it asked from. A report of an older release does not say
	// it. A VM is listed once for each address.
	Address netip.Addr `json:"address,omitzero"`
	State   VMState    `json:"state"`
	Digest  string     `json:"digest"`
	// Envoy is the version of its Envoy, and Problem why it cannot enforce
	// policies; empty if it does not say so.
	Envoy   string `json:"envoy,omitempty"`
	Problem string `json:"error,omitempty"`
	// Directions are those of the requests that its filters see.
	Directions Directions `json:"directions,omitempty"`
	// Claimed: it is unconfirmed. All that is known is one request, which anyone may have sent.
	Claimed bool `json:"claimed,omitempty"`
	// Unproven: it has neither confirmed that it applied policies, nor asked for
	// long. Reports of older releases lack it.
	Unproven bool `json:"unproven,omitempty"`
	// Outlived: it began to ask before a pod of its name was deleted.
	Outlived bool `json:"outlived,omitempty"`
	// FirstAgo is how long ago its first request began, AskedAgo how long ago
	// its newest did, and EndedAgo how long ago the newest one ended.
	FirstAgo time.Duration `json:"first_ago_ns"`
	AskedAgo time.Duration `json:"asked_ago_ns"`
	EndedAgo time.Duration `json:"ended_ago_ns,omitempty"`
	// ConnectedAgo is how long ago it first asked on the connection of its newest request.
	ConnectedAgo time.Duration `json:"connected_ago_ns,omitempty"`
	// SinceAgo is how long ago it first asked with this digest, and OtherAgo
	// how long ago it last asked with another one; zero if it never did.
	SinceAgo time.Duration `json:"since_ago_ns"`
	OtherAgo time.Duration `json:"other_ago_ns,omitempty"`
	// Retry is how long its last answer asked it to wait before the next request, or how
	// much longer than Grace a VM that is gone counts.
	Retry time.Duration `json:"retry_ns,omitempty"`
}
