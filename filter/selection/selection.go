// Package selection decides which policies apply to a workload. It is the
// one implementation of that rule: the daemon selects with it what it serves,
// and the filter what it applies.
//
// The rule: a selector's service and namespace are each either Any (written
// "*", or empty, or left out) or a name. A policy applies to a workload when
// each of the two is Any or is exactly the workload's. A workload that does
// not know its own service or namespace is matched there by Any only.
package selection

import (
	"slices"

	"github.com/boifi/hfi/schema"
)

// Key is a selector in canonical form: neither field is empty.
type Key struct{ Service, Namespace string }

// KeyOf is the key of a selector, canonical or as written.
func KeyOf(selector schema.Selector) Key {
	return Key{orAny(selector.Service), orAny(selector.Namespace)}
}

func orAny(name string) string {
	if name == "" {
		return schema.Any
	}
	return name
}

// Workload is what policies apply to. A field is empty where it is not known.
type Workload struct{ Service, Namespace string }

// Keys are the keys of the selectors that match the workload, the most
// specific first: four, or two or one where fields are empty.
func (w Workload) Keys() []Key {
	keys := make([]Key, 0, 4)
	for _, service := range matching(w.Service) {
		for _, namespace := range matching(w.Namespace) {
			keys = append(keys, Key{service, namespace})
		}
	}
	return keys
}

// matching lists the selector values that match a workload's value. A
// workload cannot be called Any: it counts as one that does not know its name.
func matching(name string) []string {
	if name == "" || name == schema.Any {
		return []string{schema.Any}
	}
	return []string{name, schema.Any}
}

// Matches says whether a policy with that selector applies to the workload.
func Matches(selector schema.Selector, workload Workload) bool {
	return slices.Contains(workload.Keys(), KeyOf(selector))
}
