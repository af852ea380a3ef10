// Package selection decides which policies apply to a workload. It is the only
// implementation of this rule: the daemon uses it to select the policies that it
// serves, and the filter to select those that it applies.
//
// The service and the namespace of a selector are each either Any ("*", empty or
// missing) or a name. A policy applies to a workload if each of the two is Any or
// equal to the workload's. If the service or the namespace of a workload is unknown,
// only Any matches it.
//
// A proxy is either a gateway or belongs to a workload. A selector with a gateway, which
// is Any or a name, applies to gateways, and one without to workloads.
//
// A waypoint receives the requests of many services. All policies for workloads in its
// namespace, or in any, apply to it, each to the requests of its own service.
package selection

import (
	"slices"

	"github.com/boifi/hfi/schema"
)

// Key is a selector in canonical form: neither Service nor Namespace is empty. If
// Gateway is not empty, Service is Any.
type Key struct{ Service, Namespace, Gateway string }

// EachService is the Service of a waypoint's keys.
const EachService = ""

// covers reports whether policies with the other key apply if those with this key do.
func (k Key) covers(other Key) bool {
	return k == other || k.Service == EachService && other.Gateway == "" && k.Namespace == other.Namespace
}

// KeyOf returns the key of a selector, which need not be in canonical form.
func KeyOf(selector schema.Selector) Key {
	if selector.Gateway != "" {
		return Key{schema.Any, orAny(selector.Namespace), selector.Gateway}
	}
	return Key{Service: orAny(selector.Service), Namespace: orAny(selector.Namespace)}
}

func orAny(name string) string {
	if name == "" {
		return schema.Any
	}
	return name
}

// Workload is a workload or a gateway that policies may apply to. Unknown fields are empty.
type Workload struct {
	Service, Namespace string
	// Gateway is empty for a workload. It is Any for a gateway whose name is unknown.
	// The Service of a gateway does not count.
	Gateway string
	// Waypoint reports that it is a waypoint, whose Service and Gateway do not count.
	Waypoint bool
}

// Keys returns the keys of the selectors that match the workload, the most specific
// first: four, or two or one if fields are unknown. Those of a waypoint cover others.
func (w Workload) Keys() []Key {
	gateways, services := []string{""}, matching(w.Service)
	if w.Gateway != "" {
		gateways, services = matching(w.Gateway), []string{schema.Any}
	}
	if w.Waypoint {
		gateways, services = []string{""}, []string{EachService}
	}
	keys := make([]Key, 0, 4)
	for _, gateway := range gateways {
		for _, service := range services {
			for _, namespace := range matching(w.Namespace) {
				keys = append(keys, Key{service, namespace, gateway})
			}
		}
	}
	return keys
}

// matching returns the selector values that match a workload's value. Any is not a
// valid name of a workload and counts as unknown.
func matching(name string) []string {
	if name == "" || name == schema.Any {
		return []string{schema.Any}
	}
	return []string{name, schema.Any}
}

// Matches reports whether a policy with the selector applies to the workload.
func Matches(selector schema.Selector, workload Workload) bool {
	return Selects(workload.Keys(), KeyOf(selector))
}

// Selects reports whether a policy with the key applies to a workload with the keys.
func Selects(keys []Key, key Key) bool {
	return slices.ContainsFunc(keys, func(k Key) bool { return k.covers(key) })
}
