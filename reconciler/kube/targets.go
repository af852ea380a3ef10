package kube

import (
	"maps"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// targets indexes the policies served that a family serves by their selectors. It is
// not safe for concurrent use.
type targets struct {
	family *family
	// set is the indexed set; nil before anything was served.
	set *schema.Set
	// byKey and inNamespace have no empty entries.
	byKey       map[selection.Key]map[string]*schema.Policy
	inNamespace map[string]map[selection.Key]struct{}
}

// newTargets returns the targets of each family.
func newTargets() map[*family]*targets {
	all := map[*family]*targets{}
	for _, f := range families {
		all[f] = &targets{family: f}
	}
	all[waypoints] = all[inbound] // They have the same policies.
	return all
}

// serve updates the targets of each family to a set. It returns the namespaces in the
// selectors of the policies that changed, of which one may be schema.Any.
func (k *keeper) serve(set *schema.Set) map[string]struct{} {
	changed := map[string]struct{}{}
	for _, each := range k.targets {
		maps.Copy(changed, each.update(set))
	}
	return changed
}

// update takes time by the number of policies that changed. It returns the
// namespaces in the selectors of those, of which one may be schema.Any.
func (t *targets) update(set *schema.Set) (changed map[string]struct{}) {
	if set == nil || set == t.set {
		return nil
	}
	changed = map[string]struct{}{}
	before := t.set
	if before == nil {
		before = schema.NewSet()
		changed[schema.Any] = struct{}{}
		t.byKey = map[selection.Key]map[string]*schema.Policy{}
		t.inNamespace = map[string]map[selection.Key]struct{}{}
	}
	for _, change := range schema.Diff(before, set) {
		if change.Old != nil && t.family.serves(change.Old.Policy) {
			key := selection.KeyOf(change.Old.Policy.Spec.Selector)
			changed[key.Namespace] = struct{}{}
			t.remove(change.Name, key)
		}
		if change.New != nil && t.family.serves(change.New.Policy) {
			changed[t.add(change.Name, change.New.Policy).Namespace] = struct{}{}
		}
	}
	t.set = set
	return changed
}

func (t *targets) add(name string, policy *schema.Policy) selection.Key {
	key := selection.KeyOf(policy.Spec.Selector)
	if t.byKey[key] == nil {
		t.byKey[key] = map[string]*schema.Policy{}
	}
	t.byKey[key][name] = policy
	if t.inNamespace[key.Namespace] == nil {
		t.inNamespace[key.Namespace] = map[selection.Key]struct{}{}
	}
	t.inNamespace[key.Namespace][key] = struct{}{}
	return key
}

func (t *targets) remove(name string, key selection.Key) {
	if delete(t.byKey[key], name); len(t.byKey[key]) > 0 {
		return
	}
	delete(t.byKey, key)
	if delete(t.inNamespace[key.Namespace], key); len(t.inNamespace[key.Namespace]) == 0 {
		delete(t.inNamespace, key.Namespace)
	}
}

// active says whether a policy with this selector has not expired.
func (t *targets) active(key selection.Key, now time.Time) bool {
	for _, policy := range t.byKey[key] {
		if !policy.Expired(now) {
			return true
		}
	}
	return false
}

// services returns the services or gateways that active policies name, in this namespace or
// in any, by their keys in a podStore. Of the latter it returns only those that are workloads of
// the namespace.
func (t *targets) services(namespace string, workloads []string, now time.Time) map[string]bool {
	services := map[string]bool{}
	for key := range t.inNamespace[namespace] {
		if workload := t.family.workload(key); workload != schema.Any && t.active(key, now) {
			services[workload] = true
		}
	}
	if len(t.inNamespace[schema.Any]) > 0 {
		for _, workload := range workloads {
			if !services[workload] && workload != schema.Any && t.active(t.family.key(workload, schema.Any), now) {
				services[workload] = true
			}
		}
	}
	return services
}

// anyNames says whether an active policy names this namespace in its selector.
func (t *targets) anyNames(namespace string, now time.Time) bool {
	for key := range t.inNamespace[namespace] {
		if t.active(key, now) {
			return true
		}
	}
	return false
}

// mayReach says whether an active policy's selector allows for workloads of this namespace.
func (t *targets) mayReach(namespace string, now time.Time) bool {
	return t.anyNames(namespace, now) || t.anyNames(schema.Any, now)
}
