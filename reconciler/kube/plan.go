package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/reconciler"
)

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

// planner makes the plan of a namespace for a family.
type planner struct {
	*keeper
	family    *family
	targets   *targets
	namespace string
	now       time.Time
	// own are the family's plugins that hfi created there, by name, and foreign others
	// of it that lead to this control plane and select pods there. taken has, by the
	// names that the family may want to use, what all but hfi's own are.
	own     map[string]*filterPlugin
	foreign []*filterPlugin
	taken   map[string]string
	// elsewhere are the workloads with pods that foreign plugins select.
	elsewhere map[string]bool
	// waitsFor returns why no plugin can name the filter yet, or "".
	waitsFor func() string
	plan     plan
}

// planFor returns the changes that a namespace needs, of all families.
func (k *keeper) planFor(namespace string, waitsFor func() string) plan {
	all := plan{messages: k.misdirected(namespace)}
	if left := k.leftovers[namespace]; len(left) > 0 {
		all.messages = append(all.messages, fmt.Sprintf("%s is left from another --kube-delivery, and hfi no longer manages it: pods with two filters fault more requests than the policies say; delete it", names(left)))
	}
	for _, f := range families {
		one := k.planFamily(f, namespace, waitsFor)
		all.steps = append(all.steps, one.steps...)
		all.messages = append(all.messages, f.labelled(one.messages)...)
		if !one.at.IsZero() {
			all.again(one.at)
		}
	}
	return all
}

// misdirected says which plugins that hfi did not create select pods of a namespace and are for
// other requests than their filters' direction says.
func (k *keeper) misdirected(namespace string) (messages []string) {
	plugins := k.plugins.in(namespace)
	if namespace != k.RootNamespace {
		plugins = append(plugins, k.plugins.in(k.RootNamespace)...)
	}
	for _, plugin := range plugins {
		if plugin.managed || !plugin.ours || plugin.targetsNoPods {
			continue
		}
		selected := k.pods.workloadsSelected(namespace, plugin.selector)
		name := k.delivery().kind + " " + strings.TrimPrefix(plugin.String(), namespace+"/")
		if plugin.family == unknown && len(selected) > 0 {
			messages = append(messages, fmt.Sprintf("%s has the direction %q, which is not inbound, outbound or gateway: its filters inject nothing", name, reconciler.Cut(string(plugin.direction), 100)))
		}
		maps.DeleteFunc(selected, func(workload string, _ bool) bool { return !inbound.has(workload) })
		if len(selected) == 0 {
			continue
		}
		const wrong = "%s also faults the requests that workloads %s, as if they %s them: set match: [{mode: %s}]"
		switch {
		case plugin.family == inbound && plugin.sends:
			messages = append(messages, fmt.Sprintf(wrong, name, "send", "received", inbound.mode))
		case plugin.family == outbound && plugin.receives:
			messages = append(messages, fmt.Sprintf(wrong, name, "receive", "sent", outbound.mode))
		}
	}
	return messages
}

// planFamily returns the changes that a namespace needs for a family. A pod must not have two
// filters of a family for long, because each draws for a request that the other has not
// faulted, nor for a moment none: a plugin is
// deleted only once what replaces it exists. Both changes reach istiod well
// within the time for which it waits for more before it sends anything, and a
// sidecar uses its former configuration until it has loaded the next.
func (k *keeper) planFamily(f *family, namespace string, waitsFor func() string) plan {
	p := &planner{keeper: k, family: f, targets: k.targets[f], namespace: namespace, now: k.Now(), own: map[string]*filterPlugin{}, taken: map[string]string{}, waitsFor: waitsFor}
	for _, plugin := range k.plugins.in(namespace) {
		if plugin.managed {
			if plugin.family == f {
				p.own[plugin.Name] = plugin
			}
			continue
		}
		switch {
		case !f.mayWant(plugin.Name):
		case !plugin.ours:
			p.taken[plugin.Name] = "refers to another control plane"
		case plugin.targetsNoPods, plugin.family == gateways && !f.apart:
			p.taken[plugin.Name] = "is not for workloads"
		default:
			p.taken[plugin.Name] = "refers to this control plane too"
		}
		p.addForeign(plugin)
	}
	if namespace != k.RootNamespace && f != waypoints { // Istio looks for a Gateway's plugins in its namespace.
		for _, plugin := range k.plugins.in(k.RootNamespace) {
			p.addForeign(plugin)
		}
	}
	p.selectedElsewhere()
	d := p.demanded()
	if !d.known {
		return plan{at: p.now.Add(k.Interval)}
	}
	p.forget(d)
	p.keepAllForTaken(&d)
	if len(p.foreign) > 0 {
		var foreign []string
		for _, plugin := range p.foreign {
			foreign = append(foreign, strings.TrimPrefix(plugin.String(), namespace+"/"))
		}
		// First, because it introduces the others.
		p.plan.messages = append([]string{fmt.Sprintf("%s %s refers to this control plane too, and hfi did not create it: in pods with two filters more requests are faulted than the policies say", k.delivery().kind, names(foreign))}, p.plan.messages...)
	}
	p.namespacePlugin(d)
	p.workloadPlugins(d)
	p.replaceNamespacePlugin(d)
	slices.Sort(p.plan.messages[min(1, len(p.plan.messages)):]) // the first introduces the others
	return p.plan
}

// addForeign adds a plugin to the foreign ones if it is one.
func (p *planner) addForeign(plugin *filterPlugin) {
	if plugin.ours && !plugin.targetsNoPods && plugin.isOf(p.family) {
		p.foreign = append(p.foreign, plugin)
	}
}

// selectedElsewhere finds the workloads that foreign plugins select, and ignores
// such plugins that select no pods. Where the pods are unknown it ignores none.
func (p *planner) selectedElsewhere() {
	p.elsewhere = map[string]bool{}
	_, podsKnown := p.pods.workloadsOf(p.namespace)
	p.foreign = slices.DeleteFunc(p.foreign, func(plugin *filterPlugin) bool {
		selected := p.pods.workloadsSelected(p.namespace, plugin.selector)
		maps.DeleteFunc(selected, func(workload string, _ bool) bool { return !p.family.has(workload) })
		maps.Copy(p.elsewhere, selected)
		return podsKnown && len(selected) == 0
	})
}

// keepAllForTaken keeps the plugin for all pods for a workload whose own
// cannot be created, because its name is taken by what gives it no filter.
func (p *planner) keepAllForTaken(d *demand) {
	if p.own[p.family.name] == nil || d.namespace != absent {
		return
	}
	for name, want := range d.workloads {
		if want == present && p.own[name] == nil && p.taken[name] != "" && !p.elsewhere[d.services[name]] {
			p.sayTaken(name)
			d.namespace = unchanged
		}
	}
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
	p.note(p.family.name, d.namespace)
	switch {
	case d.namespace == present:
		p.ensure(p.family.name, nil, len(p.foreign) > 0)
	case p.own[p.family.name] != nil && (d.namespace == unchanged || p.lingers(p.family.name)):
		p.ensure(p.family.name, nil, false)
	}
}

// replaceNamespacePlugin plans the deletion of the plugin for all pods once
// every workload that is to have a plugin of hfi's has one.
func (p *planner) replaceNamespacePlugin(d demand) {
	own := p.own[p.family.name]
	if own == nil || d.namespace != absent || p.lingers(p.family.name) {
		return
	}
	for name, want := range d.workloads {
		if want == present && !p.inEffect(name, d.selectors[name]) && !p.elsewhere[d.services[name]] {
			return
		}
	}
	p.delete(own, "no policy targets all workloads of this namespace any more")
}

// inEffect says whether a plugin exists and is as hfi wants it.
func (p *planner) inEffect(name string, selector map[string]string) bool {
	own := p.own[name]
	return own != nil && p.slot(own.podID).checked == own && maps.Equal(selector, own.selector)
}

// workloadPlugins plans the plugins of workloads.
func (p *planner) workloadPlugins(d demand) {
	all := p.own[p.family.name]
	// While the plugin for all pods exists, and is not about to be replaced, it is the only one.
	covered := !d.unseen && (d.namespace != absent || all != nil && p.lingers(p.family.name))
	replaced := covered && p.inEffect(p.family.name, nil)
	var wanted []string
	for name, want := range d.workloads {
		if replaced {
			want = absent
		}
		p.note(name, want)
		if !covered && want == present {
			wanted = append(wanted, name)
		}
	}
	slices.Sort(wanted)
	for _, name := range wanted {
		p.ensure(name, d.selectors[name], p.elsewhere[d.services[name]])
	}
	for name, own := range p.own {
		switch want := d.workloads[name]; {
		case name == p.family.name:
		case replaced:
			p.note(name, absent)
			p.delete(own, "the plugin for all workloads of this namespace has replaced it")
		case want != present && p.selectsWorkloads(own):
			p.delete(own, "it is for a gateway and selects pods of workloads")
		case covered || d.unseen:
			if len(own.selector) > 0 {
				p.ensure(name, own.selector, false)
			}
		case want == present:
		case p.overlaps(own, d, name) || len(own.selector) == 0:
			p.delete(own, "it selects pods of workloads that have plugins of their own")
		case want == unchanged:
			p.ensure(name, own.selector, false)
		default:
			p.note(name, absent)
			if p.lingers(name) {
				p.ensure(name, own.selector, false)
			} else {
				p.delete(own, "no policy targets this workload any more")
			}
		}
	}
}

// selectsWorkloads says whether a gateway's plugin selects pods of workloads, for which it is not.
func (p *planner) selectsWorkloads(plugin *filterPlugin) bool {
	if p.family != gateways {
		return false
	}
	for workload := range p.pods.workloadsSelected(p.namespace, plugin.selector) {
		if inbound.has(workload) {
			return true
		}
	}
	return false
}

// overlaps says whether a plugin selects pods of another workload that has its own plugin.
func (p *planner) overlaps(plugin *filterPlugin, d demand, except string) bool {
	for workload := range p.pods.workloadsSelected(p.namespace, plugin.selector) {
		if name := p.family.pluginOf(workload); p.family.has(workload) && name != except && d.workloads[name] == present && p.inEffect(name, d.selectors[name]) {
			return true
		}
	}
	return false
}

// ensure plans that a plugin exists and is as hfi wants it, unless there are
// others in its place.
func (p *planner) ensure(name string, selector map[string]string, others bool) {
	own := p.own[name]
	known := p.slot(podID{Namespace: p.namespace, Name: name})
	switch {
	case own != nil && known.checked == own && maps.Equal(selector, own.selector):
		return
	case own != nil:
	case others:
		p.say("so hfi creates none here")
		return
	case p.taken[name] != "":
		p.sayTaken(name)
		return
	}
	if p.SHA256 == "" {
		p.say("this daemon has no filter to serve: start it with --filter")
		return
	}
	desired := p.desired(p.family, p.namespace, name, selector)
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

func (p *planner) sayTaken(name string) {
	p.say("%s %s %s, and hfi did not create it: the name is taken, so hfi creates none here", p.delivery().kind, name, p.taken[name])
}

func (p *planner) delete(own *filterPlugin, because string) {
	p.plan.steps = append(p.plan.steps, step{own.podID, "delete", func(ctx context.Context) error { return p.prune(ctx, own, because) }})
}

// message is all messages in one text.
func (p *plan) message() string {
	return reconciler.Cut(strings.Join(p.messages, "; "), 1000)
}
