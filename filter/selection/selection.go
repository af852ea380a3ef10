// Package selection decides which policies apply to a workload. It is the only
// implementation of this rule: the daemon uses it to select the policies that it
// serves, and the filter to select those that it applies.
//
// The service and the namespace of a selector are each either Any ("*", empty or
// missing) or a name. A policy applies to a workload if each of the two is Any or
// equal to the workload's. If the service or the namespace of a workload is unknown,
// only Any matches it.
package selection

import (
	"slices"

	"github.com/boifi/hfi/schema"
)

// Key is a selector in canonical form: neither field is empty.
type Key struct{ Service, Namespace string }

// KeyOf returns the key of a selector, which need not be in canonical form.
func KeyOf(selector schema.Selector) Key {
	return Key{orAny(selector.Service), orAny(selector.Namespace)}
}

func orAny(name string) string {
	if name == "" {
		return schema.Any
	}
	return name
}

// Workload is a workload that policies may apply to. Unknown fields are empty.
type Workload struct{ Service, Namespace string }

// Keys returns the keys of the selectors that match the workload, the most specific
// first: four, or two or one if fields are empty.
func (w Workload) Keys() []Key {
	keys := make([]Key, 0, 4)
	for _, service := range matching(w.Service) {
		for _, namespace := range matching(w.Namespace) {
			keys = append(keys, Key{service, namespace})
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
	return slices.Contains(workload.Keys(), KeyOf(selector))
}
