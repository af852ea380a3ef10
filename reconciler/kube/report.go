package kube

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// contact is what is known of a pod's filter. Of several, as after a restart
// of the sidecar, it is the best one.
type contact struct {
	state   api.FilterState
	service string
}

// contactsOf is the fleet by pod.
func contactsOf(filters []api.FilterStatus) map[podID]contact {
	rank := []api.FilterState{api.FilterSilent, api.FilterBehind, api.FilterCurrent}
	contacts := make(map[podID]contact, len(filters))
	for _, filter := range filters {
		id := podID{Namespace: filter.Namespace, Name: filter.Pod}
		before, known := contacts[id]
		if !known || slices.Index(rank, filter.State) > slices.Index(rank, before.state) {
			contacts[id] = contact{filter.State, filter.Service}
		}
	}
	return contacts
}

// report writes into the WasmPlugins' status where it has changed, and says
// whether all is well with them.
func (k *keeper) report(ctx context.Context) (well bool) {
	plugins, synced := k.plugins.list()
	plugins = slices.DeleteFunc(plugins, func(one *plugin) bool {
		return !one.leadsHome // another control plane tells of it
	})
	k.forget(plugins)
	if !synced || len(plugins) == 0 {
		return false
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	fleet, err := k.Filters(limit)
	cancel()
	if err != nil {
		return false // this daemon is stopping, or the question took too long: the next look asks again
	}
	if fleet.Complete {
		k.incompleteSince = time.Time{}
	} else if k.incompleteSince.IsZero() {
		k.incompleteSince = k.Now()
	}
	contacts := contactsOf(fleet.Items)
	// open are the namespaces where some status is not known to be as it should.
	open := map[string]bool{}
	well = true
	for _, one := range plugins {
		if one.targetsOther || ctx.Err() != nil {
			continue // a gateway's or a Service's pods are not known here
		}
		conditions, certain := k.judge(ctx, one, contacts)
		if !certain {
			open[one.Namespace] = true
			continue
		}
		well = well && !slices.ContainsFunc(conditions, func(c api.Condition) bool { return c.Status != "True" })
		k.mu.Lock()
		k.judged[one.podID] = conditions
		k.mu.Unlock()
		if !slices.EqualFunc(one.conditions, conditions, sameCondition) || one.observed != one.generation {
			open[one.Namespace] = true
			k.write(ctx, one, conditions)
		}
	}
	k.settle(open)
	return well && len(open) == 0
}

// settle forgets which statuses were written in vain, but in some namespaces.
func (k *keeper) settle(but map[string]bool) {
	for namespace := range k.told {
		if !but[namespace] {
			k.problems.clear("wasmplugins/status" + inNamespace(namespace))
			delete(k.told, namespace)
		}
	}
}

// forget drops what is known of plugins that are no more.
func (k *keeper) forget(plugins []*plugin) {
	there, modules, namespaces := map[podID]bool{}, map[module]bool{}, map[string]bool{}
	for _, one := range plugins {
		there[one.podID], modules[module{one.url, one.sha256}], namespaces[one.Namespace] = true, true, true
	}
	k.settle(namespaces)
	maps.DeleteFunc(k.seen, func(id podID, _ sighting) bool { return !there[id] })
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.judged, func(id podID, _ []api.Condition) bool { return !there[id] })
	maps.DeleteFunc(k.checks, func(at module, one *check) bool { return !modules[at] && !one.busy })
}

func sameCondition(a, b api.Condition) bool {
	a.LastTransitionTime, b.LastTransitionTime = time.Time{}, time.Time{}
	return a == b
}

// since is from when on the plugin has been as it is, as far as is known.
func (k *keeper) since(one *plugin) time.Time {
	if one.generation <= 1 {
		return one.created
	}
	known, seen := k.seen[one.podID]
	if !seen || known.generation != one.generation {
		known = sighting{one.generation, k.Now()}
		if !seen && one.observed == one.generation {
			known.since = one.created // a leader before knew this one already
		}
		k.seen[one.podID] = known
	}
	return known.since
}

// judge finds a plugin's conditions. They are uncertain while a replica that
// may hold filters does not tell.
func (k *keeper) judge(ctx context.Context, one *plugin, contacts map[podID]contact) (conditions []api.Condition, certain bool) {
	key := selection.Key{Service: schema.Any, Namespace: one.Namespace}
	if one.Namespace == k.RootNamespace {
		key.Namespace = schema.Any
	}
	now := k.Now()
	settled := now.Sub(k.since(one)) >= k.Grace
	var t roll
	for _, each := range k.pods.selected(key) {
		has, known := contacts[each.podID]
		if !one.applies(each, k.RootNamespace) || !each.sidecar && !known {
			continue
		}
		t.add(each, has, settled && now.Sub(each.created) >= k.Grace)
	}
	t.sort()
	incomplete := !k.incompleteSince.IsZero()
	if incomplete && t.loaded < t.pods && now.Sub(k.incompleteSince) < k.Grace {
		return nil, false
	}
	_, _, podsKnown := k.pods.size()
	loaded := t.loadedCondition(podsKnown, k.checked(ctx, one, t.loaded < t.pods))
	if incomplete && loaded.Status != "True" {
		loaded.Message += "; a replica of the control plane does not answer, and may know more"
	}
	for _, condition := range []api.Condition{loaded, t.currentCondition()} {
		condition.Message = reconciler.Cut(condition.Message, 1000)
		condition.LastTransitionTime = now.UTC().Truncate(time.Second)
		for _, before := range one.conditions {
			if before.Type == condition.Type && before.Status == condition.Status {
				condition.LastTransitionTime = before.LastTransitionTime
			}
		}
		conditions = append(conditions, condition)
	}
	return conditions, true
}

// write patches the status, if nobody changed the object meanwhile, and keeps
// what others wrote there.
func (k *keeper) write(ctx context.Context, one *plugin, conditions []api.Condition) {
	if k.Now().Sub(k.told[one.Namespace]) < k.RetryMax {
		return
	}
	list := slices.Clone(one.foreign)
	for _, condition := range conditions {
		list = append(list, map[string]any{
			"type": string(condition.Type), "status": condition.Status, "reason": condition.Reason, "message": condition.Message,
			"lastTransitionTime": condition.LastTransitionTime.Format(time.RFC3339), "observedGeneration": one.generation,
		})
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": one.object.GetResourceVersion()},
		"status":   map[string]any{"conditions": list, "observedGeneration": one.generation},
	})
	if err != nil {
		k.Logger.Error("a WasmPlugin's status cannot be written", "error", err)
		return
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	told := k.plugins.told()
	patched, err := k.client(one.Namespace).Patch(limit, one.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: managedBy}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return // the watch tells what there is now
	}
	k.noted(ctx, "patch wasmplugins/status"+inNamespace(one.Namespace), err)
	if err != nil {
		k.told[one.Namespace] = k.Now()
		return
	}
	k.plugins.wrote(patched, told)
	k.announce(limit, one, conditions)
}

// announce makes an Event of a change that users wait for, or should know of.
func (k *keeper) announce(ctx context.Context, one *plugin, conditions []api.Condition) {
	var before api.Condition
	for _, condition := range one.conditions {
		if condition.Type == conditionLoaded {
			before = condition
		}
	}
	now := conditions[0]
	if now.Status == before.Status && now.Reason == before.Reason {
		return
	}
	switch now.Status {
	case "True":
		k.event(ctx, one.object, "Normal", now.Reason, now.Message)
	case "False":
		k.event(ctx, one.object, "Warning", now.Reason, now.Message)
	}
}
