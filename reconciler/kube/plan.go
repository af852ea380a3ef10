package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

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
}

// demanded computes what policies ask for in a namespace. Pods come and go, and
// loading a filter takes seconds: where a policy names a namespace or one of its
// workloads, the plugin stays when the last of the pods is gone. Where pods
// cannot be listed, labels are unknown, and every policy counts that may target
// some pod there.
func (k *keeper) demanded(namespace string, own map[string]*filterPlugin) demand {
	d := demand{known: true, workloads: map[string]want{}, selectors: map[string]map[string]string{}, services: map[string]string{}}
	now := k.Now()
	workloads, podsKnown := k.pods.workloadsOf(namespace)
	switch {
	case k.targets.set == nil:
		return demand{}
	case !podsKnown:
		if !k.problems.any("list pods", "watch pods") {
			return demand{} // The first list is under way.
		}
		if k.targets.mayReach(namespace, now) {
			d.namespace = present
		}
		return d
	}
	named := k.targets.active(selection.Key{Service: schema.Any, Namespace: namespace}, now)
	switch {
	case len(workloads) > 0 && (named || k.targets.active(everything, now)):
		d.namespace = present
		return d
	case named:
		d.namespace = unchanged
	}
	exist := make(map[string]bool, len(workloads))
	for _, workload := range workloads {
		exist[workload] = true
	}
	for service := range k.targets.services(namespace, workloads, now) {
		name := pluginNameOf(service)
		d.services[name] = service
		if !exist[service] {
			d.workloads[name] = unchanged
			continue
		}
		var current map[string]string
		if plugin := own[name]; plugin != nil {
			current = plugin.selector
		}
		selector, found := k.pods.selectorOf(namespace, service, current)
		if !found {
			d.namespace = present
			d.workloads = nil
			return d
		}
		d.workloads[name], d.selectors[name] = present, selector
	}
	return d
}

// step is a change of a plugin.
type step struct {
	podID
	verb   string
	change func(context.Context) error
}

// plan is what a namespace needs.
type plan struct {
	steps []step
	// messages say what is wrong.
	messages []string
	// at is when the plan must be made again although nothing changes, or zero.
	at time.Time
}

func (p *plan) again(at time.Time) {
	if p.at.IsZero() || at.Before(p.at) {
		p.at = at
	}
}

// planner makes a namespace's plan.
type planner struct {
	*keeper
	namespace string
	now       time.Time
	// own are the plugins that hfi created there, by name, and foreign others that
	// lead to this control plane and apply to pods there. taken has, by name, what
	// all but hfi's own are.
	own     map[string]*filterPlugin
	foreign []*filterPlugin
	taken   map[string]string
	// waitsFor returns why no plugin can name the filter yet, or "".
	waitsFor func() string
	plan     plan
}

// planFor returns the changes that a namespace needs. A pod must not have two
// filters for long, because each draws for a request that the other has not
// faulted, nor for a moment none: a plugin is
// deleted only once what replaces it exists. Both changes reach istiod well
// within the time for which it waits for more before it sends anything, and a
// sidecar uses its former configuration until it has loaded the next.
func (k *keeper) planFor(namespace string, waitsFor func() string) plan {
	p := &planner{keeper: k, namespace: namespace, now: k.Now(), own: map[string]*filterPlugin{}, taken: map[string]string{}, waitsFor: waitsFor}
	var foreign []string
	for _, plugin := range k.plugins.in(namespace) {
		switch {
		case plugin.managed:
			p.own[plugin.Name] = plugin
		case !plugin.ours:
			p.taken[plugin.Name] = "refers to another control plane"
		case plugin.targetsNoPods:
			p.taken[plugin.Name] = "is not for workloads"
		default:
			p.taken[plugin.Name] = "refers to this control plane too"
			p.foreign = append(p.foreign, plugin)
			foreign = append(foreign, plugin.Name)
		}
	}
	if namespace != k.RootNamespace {
		for _, plugin := range k.plugins.in(k.RootNamespace) {
			if plugin.ours && !plugin.targetsNoPods {
				p.foreign = append(p.foreign, plugin)
				foreign = append(foreign, k.RootNamespace+"/"+plugin.Name)
			}
		}
	}
	d := k.demanded(namespace, p.own)
	if !d.known {
		return plan{at: p.now.Add(k.Interval)}
	}
	p.forget(d)
	if len(foreign) > 0 {
		p.say("%s %s refers to this control plane too, and hfi did not create it: in pods with two filters more requests are faulted than the policies say", k.delivery().kind, names(foreign))
	}
	p.namespacePlugin(d)
	p.workloadPlugins(d)
	return p.plan
}

func (p *planner) say(format string, arguments ...any) {
	p.plan.messages = append(p.plan.messages, fmt.Sprintf(format, arguments...))
}

// lingers says whether an unwanted plugin stays for now, so that a policy that
// comes back has its filter at once.
func (p *planner) lingers(name string) bool {
	end := p.slot(podID{Namespace: p.namespace, Name: name}).unwantedSince.Add(p.Linger)
	if !p.now.Before(end) {
		return false
	}
	p.plan.again(end)
	return true
}

// namespacePlugin plans the plugin for all pods.
func (p *planner) namespacePlugin(d demand) {
	own := p.own[PluginName]
	p.note(PluginName, d.namespace)
	switch {
	case d.namespace == present:
		p.ensure(PluginName, nil, p.foreign)
	case own == nil:
	case d.namespace == unchanged || p.lingers(PluginName):
		p.ensure(PluginName, nil, nil)
	case p.replaced(d):
		p.delete(own, "no policy targets all workloads of this namespace any more")
	}
}

// replaced says whether every workload that is to have a plugin of hfi's has one.
func (p *planner) replaced(d demand) bool {
	for name, want := range d.workloads {
		if want == present && p.own[name] == nil && p.taken[name] == "" && len(p.foreignOf(d.services[name])) == 0 {
			return false
		}
	}
	return true
}

// workloadPlugins plans the plugins of workloads.
func (p *planner) workloadPlugins(d demand) {
	all := p.own[PluginName]
	// While the plugin for all pods exists, and is not about to be replaced, it is the only one.
	covered := d.namespace != absent || all != nil && p.lingers(PluginName)
	var wanted []string
	for name, want := range d.workloads {
		p.note(name, want)
		if !covered && want == present {
			wanted = append(wanted, name)
		}
	}
	slices.Sort(wanted)
	for _, name := range wanted {
		p.ensure(name, d.selectors[name], p.foreignOf(d.services[name]))
	}
	for name, own := range p.own {
		switch want := d.workloads[name]; {
		case name == PluginName:
		case covered:
			if all != nil {
				p.note(name, absent)
				p.delete(own, "the plugin for all workloads of this namespace has replaced it")
			}
		case want == present:
		case p.overlaps(own, d, name) || len(own.selector) == 0:
			p.delete(own, "it selects pods of workloads that have plugins of their own")
		case want == unchanged:
			p.ensure(name, own.selector, nil)
		default:
			p.note(name, absent)
			if p.lingers(name) {
				p.ensure(name, own.selector, nil)
			} else {
				p.delete(own, "no policy targets this workload any more")
			}
		}
	}
}

// overlaps says whether a plugin selects pods of another workload that has its own plugin.
func (p *planner) overlaps(plugin *filterPlugin, d demand, except string) bool {
	for workload := range p.pods.workloadsSelected(p.namespace, plugin.selector) {
		if name := pluginNameOf(workload); name != except && d.workloads[name] == present && p.own[name] != nil {
			return true
		}
	}
	return false
}

// foreignOf returns the plugins of others that select pods of a workload.
func (p *planner) foreignOf(workload string) (plugins []*filterPlugin) {
	for _, plugin := range p.foreign {
		if p.pods.workloadsSelected(p.namespace, plugin.selector)[workload] {
			plugins = append(plugins, plugin)
		}
	}
	return plugins
}

// ensure plans that a plugin exists and is as hfi wants it, unless there are
// others in its place.
func (p *planner) ensure(name string, selector map[string]string, others []*filterPlugin) {
	own := p.own[name]
	known := p.slot(podID{Namespace: p.namespace, Name: name})
	switch {
	case own != nil && known.checked == own && maps.Equal(selector, own.selector):
		return
	case own != nil:
	case len(others) > 0:
		p.say("so hfi creates none here")
		return
	case p.taken[name] != "":
		p.say("%s %s %s, and hfi did not create it: the name is taken, so hfi creates none here", p.delivery().kind, name, p.taken[name])
		return
	}
	if p.SHA256 == "" {
		p.say("this daemon has no filter to serve: start it with --filter")
		return
	}
	desired := p.desired(p.namespace, name, selector)
	var next step
	if own == nil {
		next = step{podID{Namespace: p.namespace, Name: name}, "create", func(ctx context.Context) error { return p.create(ctx, desired) }}
	} else {
		updated, changes := restored(own.object, desired)
		if updated == nil {
			known.checked = own
			return
		}
		next = step{own.podID, "update", func(ctx context.Context) error { return p.repair(ctx, updated, changes) }}
	}
	// Once a plugin names this filter, another sidecar that asks for it changes little.
	if own == nil && !p.plugins.name(p.SHA256) || own != nil && own.sha256 != p.SHA256 {
		if reason := p.waitsFor(); reason != "" {
			p.say("%s", reason)
			return
		}
	}
	p.plan.steps = append(p.plan.steps, next)
}

func (p *planner) delete(own *filterPlugin, because string) {
	p.plan.steps = append(p.plan.steps, step{own.podID, "delete", func(ctx context.Context) error { return p.prune(ctx, own, because) }})
}

// message is all messages in one text.
func (p *plan) message() string {
	slices.Sort(p.messages[min(1, len(p.messages)):]) // the first introduces the others
	return reconciler.Cut(strings.Join(slices.Compact(p.messages), "; "), 1000)
}
