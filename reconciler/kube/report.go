package kube

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// filterContact is what the fleet knows of a pod's filter. If there are
// several, as after a restart of the sidecar, it is the one in the best state.
type filterContact struct {
	state                      api.FilterState
	service, gateway, waypoint string
	// directions are those of the requests that it sees; empty is inbound alone.
	directions []string
}

// lacks says whether the filter asks for policies and does not see the requests of a family.
func (c filterContact) lacks(f *family) bool {
	if c.state != api.FilterCurrent && c.state != api.FilterBehind {
		return false
	}
	if len(c.directions) == 0 {
		return f.direction != schema.Inbound
	}
	return !slices.Contains(c.directions, string(f.direction))
}

func contactsByPod(filters []api.FilterStatus) map[podID]filterContact {
	rank := []api.FilterState{api.FilterSilent, api.FilterUnable, api.FilterBehind, api.FilterCurrent}
	contacts := make(map[podID]filterContact, len(filters))
	for _, filter := range filters {
		id := podID{Namespace: filter.Namespace, Name: filter.Pod}
		before, known := contacts[id]
		if !known || slices.Index(rank, filter.State) > slices.Index(rank, before.state) {
			contacts[id] = filterContact{filter.State, filter.Service, filter.Gateway, filter.Waypoint, filter.Directions}
		}
	}
	return contacts
}

// report writes the status of each plugin whose conditions changed. It
// returns true if all conditions are True and none had to be written.
func (k *keeper) report(ctx context.Context) (well bool) {
	plugins, synced := k.plugins.list()
	plugins = slices.DeleteFunc(plugins, func(plugin *filterPlugin) bool {
		return !plugin.ours // Its own control plane reports on it.
	})
	k.forgetDeleted(plugins)
	if !synced || len(plugins) == 0 {
		return false
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	fleet, err := k.Filters(limit)
	cancel()
	if err != nil {
		return false // The daemon is stopping, or the call took too long: the next pass asks again.
	}
	if fleet.Complete {
		k.incompleteSince = time.Time{}
	} else if k.incompleteSince.IsZero() {
		k.incompleteSince = k.Now()
	}
	contacts := contactsByPod(fleet.Items)
	// unsettled are the namespaces with a status that may not be up to date.
	unsettled := map[string]bool{}
	well = true
	left := k.MaxChanges
	// Begin after the last one written, so that each has its turn.
	from, _ := slices.BinarySearchFunc(plugins, k.reportAfter, func(plugin *filterPlugin, after podID) int {
		if cmp.Or(cmp.Compare(plugin.Namespace, after.Namespace), cmp.Compare(plugin.Name, after.Name)) <= 0 {
			return -1
		}
		return 1
	})
	for _, plugin := range slices.Concat(plugins[from:], plugins[:from]) {
		if plugin.targetsNoPods || ctx.Err() != nil {
			continue
		}
		conditions, changed, known := k.conditionsOf(ctx, plugin, contacts)
		if !known {
			unsettled[plugin.Namespace] = true
			continue
		}
		for _, condition := range conditions {
			well = well && condition.Status == metav1.ConditionTrue
		}
		k.mu.Lock()
		k.computed[plugin.podID] = conditions
		k.mu.Unlock()
		if changed {
			unsettled[plugin.Namespace] = true
			if left <= 0 || k.Now().Sub(k.statusFailedAt[plugin.Namespace]) < k.RetryMax || !k.Leads() {
				continue
			}
			started := time.Now()
			left--
			k.reportAfter = plugin.podID
			if !k.writeStatus(ctx, plugin, conditions) && k.slow(started) {
				left = 0 // The next would fail as slowly.
			}
		}
	}
	k.clearStatusProblems(unsettled)
	return well && len(unsettled) == 0
}

// clearStatusProblems forgets failed writes of a status, except in the
// namespaces where a status still has to be written.
func (k *keeper) clearStatusProblems(except map[string]bool) {
	for namespace := range k.statusFailedAt {
		if !except[namespace] {
			k.problems.clear(k.delivery().resource.Resource + "/status" + inNamespace(namespace))
			delete(k.statusFailedAt, namespace)
		}
	}
}

// forgetDeleted drops what is known of plugins that no longer exist.
func (k *keeper) forgetDeleted(plugins []*filterPlugin) {
	exists, modules, namespaces := map[podID]bool{}, map[module]bool{}, map[string]bool{}
	for _, plugin := range plugins {
		exists[plugin.podID], modules[module{plugin.url, plugin.sha256}], namespaces[plugin.Namespace] = true, true, true
	}
	k.clearStatusProblems(namespaces)
	maps.DeleteFunc(k.generations, func(id podID, _ generationSeen) bool { return !exists[id] })
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.computed, func(id podID, _ []metav1.Condition) bool { return !exists[id] })
	maps.DeleteFunc(k.checks, func(at module, check *moduleCheck) bool { return !modules[at] && !check.running })
}

// unchangedSince is the time since when the plugin has its generation, as far as is known.
func (k *keeper) unchangedSince(plugin *filterPlugin) time.Time {
	if plugin.generation <= 1 {
		return plugin.created
	}
	known, seen := k.generations[plugin.podID]
	if !seen || known.generation != plugin.generation {
		known = generationSeen{plugin.generation, k.Now()}
		if !seen && plugin.observedGeneration == plugin.generation {
			known.since = plugin.created // An earlier leader reported on this generation already.
		}
		k.generations[plugin.podID] = known
	}
	return known.since
}

// conditionsOf computes a plugin's conditions, and whether the status in the
// cluster differs. known is false while a replica that may have contact with
// more filters does not answer.
func (k *keeper) conditionsOf(ctx context.Context, plugin *filterPlugin, contacts map[podID]filterContact) (conditions []metav1.Condition, changed, known bool) {
	now := k.Now()
	graceOver := now.Sub(k.unchangedSince(plugin)) >= k.Grace
	var tally podTally
	for _, pod := range k.podsOf(plugin) {
		contact, found := contacts[pod.podID]
		if !pod.sidecar && !found {
			continue
		}
		if contact.lacks(plugin.family) {
			contact = filterContact{} // It is another plugin's.
		}
		tally.add(pod, contact, graceOver && now.Sub(pod.created) >= k.Grace)
	}
	tally.sort()
	incomplete := !k.incompleteSince.IsZero()
	if incomplete && tally.loaded < tally.pods && now.Sub(k.incompleteSince) < k.Grace {
		return nil, false, false
	}
	_, _, podsKnown := k.pods.size()
	loaded := tally.loadedCondition(podsKnown, k.checkModule(ctx, plugin, tally.loaded < tally.pods))
	if incomplete && loaded.Status != metav1.ConditionTrue {
		loaded.Message += "; a replica of the control plane does not answer, and may know more"
	}
	conditions = slices.Clone(plugin.conditions)
	changed = plugin.observedGeneration != plugin.generation
	for _, condition := range []metav1.Condition{loaded, tally.currentCondition()} {
		condition.Message = reconciler.Cut(condition.Message, 1000)
		// Where the CRD has no such field in a condition, the API server drops it: that is no change.
		condition.ObservedGeneration = plugin.generation
		if before := meta.FindStatusCondition(conditions, condition.Type); before != nil {
			before.ObservedGeneration = plugin.generation
		}
		condition.LastTransitionTime = metav1.NewTime(now.UTC().Truncate(time.Second))
		changed = meta.SetStatusCondition(&conditions, condition) || changed
	}
	return conditions, changed, true
}

// podsOf returns the pods that a plugin applies to, in time by their number: of
// a plugin with labels it looks only at the workloads that have them.
func (c *Cluster) podsOf(plugin *filterPlugin) (pods []*pod) {
	namespace := plugin.Namespace
	if namespace == c.RootNamespace {
		namespace = schema.Any
	}
	selected := map[string]bool{schema.Any: true}
	if namespace != schema.Any && len(plugin.selector) > 0 {
		selected = c.pods.workloadsSelected(namespace, plugin.selector)
	}
	var found []*pod
	if selected[schema.Any] || selected[""] { // No key selects these alone.
		found = slices.Concat(c.pods.selected(inbound.key(schema.Any, namespace)), c.pods.selected(gateways.key(schema.Any, namespace)))
		selected = nil
	}
	for workload := range selected {
		for _, f := range []*family{inbound, gateways} {
			if f.has(workload) {
				found = append(found, c.pods.selected(f.key(workload, namespace))...)
			}
		}
	}
	if plugin.isOf(waypoints) {
		found = append(found, c.pods.selected(waypoints.key("", plugin.Namespace))...)
	}
	for _, pod := range found {
		if plugin.appliesTo(pod, c.RootNamespace) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// writeStatus patches the status, unless the object changed since it was
// read, and says whether that did not fail. It uses a merge patch with the conditions of others in it, and not
// server-side apply: the CRD declares conditions as an atomic list, so that
// applying hfi's would remove those of others.
func (k *keeper) writeStatus(ctx context.Context, plugin *filterPlugin, conditions []metav1.Condition) (ok bool) {
	list := slices.Clone(plugin.otherConditions)
	for _, condition := range conditions {
		list = append(list, condition)
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": plugin.object.GetResourceVersion()},
		"status":   map[string]any{"conditions": list, "observedGeneration": plugin.generation},
	})
	if err != nil {
		k.Logger.Error("encoding a plugin's status failed", "namespace", plugin.Namespace, "name", plugin.Name, "error", err)
		return false
	}
	limit, cancel := context.WithTimeout(ctx, k.CallTimeout)
	defer cancel()
	events := k.plugins.eventCount()
	patched, err := k.client(plugin.Namespace).Patch(limit, plugin.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: managedBy}, "status")
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return true // The watch will deliver the new state.
	}
	k.recordResult(ctx, "patch "+k.delivery().resource.Resource+"/status"+inNamespace(plugin.Namespace), err)
	if err != nil {
		k.statusFailedAt[plugin.Namespace] = k.Now()
		return false
	}
	k.plugins.setWritten(patched, events)
	k.recordTransition(limit, plugin, conditions)
	return true
}

// recordTransition creates an Event if the condition Loaded became True or
// False, or has another reason.
func (k *keeper) recordTransition(ctx context.Context, plugin *filterPlugin, conditions []metav1.Condition) {
	before, now := meta.FindStatusCondition(plugin.conditions, conditionLoaded), meta.FindStatusCondition(conditions, conditionLoaded)
	if before != nil && now.Status == before.Status && now.Reason == before.Reason {
		return
	}
	switch now.Status {
	case metav1.ConditionTrue:
		k.recordEvent(ctx, plugin.object, "Normal", now.Reason, now.Message)
	case metav1.ConditionFalse:
		k.recordEvent(ctx, plugin.object, "Warning", now.Reason, now.Message)
	}
}
