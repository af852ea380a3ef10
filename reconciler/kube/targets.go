package kube

import (
	"slices"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// targets knows the selectors of the policies served. One goroutine uses it.
type targets struct {
	// set is what the rest was made of; nil before anything was served.
	set *schema.Set
	// byKey and inNamespace have no empty entries.
	byKey       map[selection.Key]map[string]*schema.Policy
	inNamespace map[string]map[selection.Key]struct{}
}

// update costs what changed since the set before.
func (t *targets) update(set *schema.Set) {
	if set == nil || set == t.set {
		return
	}
	before := t.set
	if before == nil {
		before = schema.NewSet()
		t.byKey = map[selection.Key]map[string]*schema.Policy{}
		t.inNamespace = map[string]map[selection.Key]struct{}{}
	}
	for _, change := range schema.Diff(before, set) {
		if change.Old != nil {
			key := selection.KeyOf(change.Old.Policy.Spec.Selector)
			if delete(t.byKey[key], change.Name); len(t.byKey[key]) == 0 {
				delete(t.byKey, key)
				take(t.inNamespace, key.Namespace, key)
			}
		}
		if change.New != nil {
			key := selection.KeyOf(change.New.Policy.Spec.Selector)
			if t.byKey[key] == nil {
				t.byKey[key] = map[string]*schema.Policy{}
				put(t.inNamespace, key.Namespace, key)
			}
			t.byKey[key][change.Name] = change.New.Policy
		}
	}
	t.set = set
}

// live says whether a policy with that selector has not ended.
func (t *targets) live(key selection.Key, now time.Time) bool {
	for _, policy := range t.byKey[key] {
		if !policy.Expired(now) {
			return true
		}
	}
	return false
}

// anyOf says whether a live policy targets one of the workloads.
func (t *targets) anyOf(workloads []selection.Workload, now time.Time) bool {
	return slices.ContainsFunc(workloads, func(workload selection.Workload) bool {
		return slices.ContainsFunc(workload.Keys(), func(key selection.Key) bool { return t.live(key, now) })
	})
}

// names says whether a live policy's selector is for that namespace and no other.
func (t *targets) names(namespace string, now time.Time) bool {
	for key := range t.inNamespace[namespace] {
		if t.live(key, now) {
			return true
		}
	}
	return false
}

// mayReach says whether a live policy's selector allows for workloads of that namespace.
func (t *targets) mayReach(namespace string, now time.Time) bool {
	return t.names(namespace, now) || t.names(schema.Any, now)
}
