package kube

import (
	"slices"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// want is what policies ask for a plugin.
type want int

const (
	absent want = iota
	// unchanged: create no plugin, and keep an existing one.
	unchanged
	present
)

// demand is what the policies served ask for in a namespace.
type demand struct {
	// known is false while it is too early to say.
	known bool
	// namespace is for the plugin of all pods. Only policies without a service
	// ask for it, or those for workloads that labels do not tell from others.
	namespace want
	// workloads are the plugins of workloads by name. No element is absent.
	workloads map[string]want
	// selectors are those of the workloads to be present, by the plugin's name.
	selectors map[string]map[string]string
	services  map[string]string // by the plugin's name
	// unseen is set if the pods are unknown, so that no plugin may replace another.
	unseen bool
}

// demanded computes what policies ask for in a namespace. Pods come and go, and
// loading a filter takes seconds: where a policy names a namespace or one of its
// workloads, the plugin stays when the last of the pods is gone. Where a plugin
// for all pods would give those a second filter that a plugin of others selects,
// each of the other workloads gets its own, and each gateway always.
func (p *planner) demanded() demand {
	d := demand{known: true, workloads: map[string]want{}, selectors: map[string]map[string]string{}, services: map[string]string{}}
	workloads, podsKnown := p.pods.workloadsOf(p.namespace)
	workloads = slices.DeleteFunc(workloads, func(workload string) bool { return !p.family.has(workload) })
	switch {
	case p.targets.set == nil:
		return demand{}
	case !podsKnown:
		return p.demandedUnseen(d)
	case p.family == waypoints:
		return p.demandedInWaypoints(d, workloads)
	}
	named := p.targets.active(p.family.key(schema.Any, p.namespace), p.now)
	all := len(workloads) > 0 && (named || p.targets.active(p.family.key(schema.Any, schema.Any), p.now))
	blocked := p.own[p.family.name] == nil && len(p.foreign) > 0 || p.family == gateways
	switch {
	case all && !blocked:
		d.namespace = present
		return d
	case named && !all && p.family != gateways:
		d.namespace = unchanged
	}
	services := p.targets.services(p.namespace, workloads, p.now)
	exist := make(map[string]bool, len(workloads))
	for _, workload := range workloads {
		exist[workload] = true
		if all {
			services[workload] = true
		}
	}
	for service := range services {
		name := p.family.pluginOf(service)
		d.services[name] = service
		if !exist[service] {
			d.workloads[name] = unchanged
			continue
		}
		var current map[string]string
		if plugin := p.own[name]; plugin != nil {
			current = plugin.selector
		}
		selector, found := p.pods.selectorOf(p.namespace, service, current)
		switch {
		case found:
			d.workloads[name], d.selectors[name] = present, selector
		case !blocked:
			d.namespace = present
			d.workloads = nil
			return d
		case !p.elsewhere[service]:
			d.workloads[name] = unchanged
			p.say("workload %q has no labels that tell it from others, so hfi creates none for it", reconciler.Cut(service, 100))
		}
	}
	return d
}

// demandedInWaypoints is for waypoints: each has a plugin of its own if an active policy applies
// in it to a Service that uses it.
func (p *planner) demandedInWaypoints(d demand, exist []string) demand {
	keys, known := p.bindings.keysIn(p.namespace)
	if !known {
		for name := range p.own {
			d.workloads[name] = unchanged
		}
		return d
	}
	for waypoint, keys := range keys {
		if !slices.ContainsFunc(keys, func(key selection.Key) bool { return p.targets.active(key, p.now) }) {
			continue
		}
		workload := waypointPrefix + waypoint
		name := p.family.pluginOf(workload)
		d.services[name], d.workloads[name] = workload, unchanged
		if slices.Contains(exist, workload) {
			d.workloads[name], d.selectors[name] = present, map[string]string{labelGateway: waypoint}
		}
	}
	return d
}

// demandedUnseen is for a namespace whose pods cannot be listed: every policy
// counts that may target some pod there. Workloads that have plugins of their own
// keep these, because one for all pods would put the filter on others as well.
// A list that fails, and is not denied, is waited for during RolloutLimit.
func (p *planner) demandedUnseen(d demand) demand {
	if !p.problems.isDenied("list pods") && (p.unseenSince.IsZero() || p.now.Sub(p.unseenSince) <= p.RolloutLimit) {
		return demand{}
	}
	if !p.targets.mayReach(p.namespace, p.now) {
		return d
	}
	if !p.family.apart {
		d.namespace = present
	}
	for name := range p.own {
		if name != p.family.name {
			d.workloads[name] = unchanged
			d.namespace, d.unseen = min(d.namespace, unchanged), true
		}
	}
	if d.unseen {
		p.say("the pods are unknown, so only the plugins that exist are kept")
	}
	return d
}
