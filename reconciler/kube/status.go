package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Pods returns the number of pods that a selector targets, in constant time.
// known is false until the cluster's pods were listed once.
func (c *Cluster) Pods(selector schema.Selector) (count int, known bool) {
	_, _, known = c.pods.size()
	return c.pods.selectedCount(selection.KeyOf(selector)), known
}

// Exist returns the function that reports whether a pod exists and is not being
// deleted. known is false while the pods cannot be listed and watched.
func (c *Cluster) Exist() (exist func(namespace, pod string) bool, known bool) {
	_, _, synced := c.pods.size()
	exist = func(namespace, pod string) bool { return c.pods.get(podID{Namespace: namespace, Name: pod}) != nil }
	return exist, synced && !c.problems.any("list pods", "watch pods")
}

// OwnReport returns what this replica found as the leader, or nil if it does not lead.
func (c *Cluster) OwnReport() *api.ClusterReport {
	if !c.Leads() {
		return nil
	}
	denied, failure := c.problems.list()
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	return &api.ClusterReport{MissingPermissions: denied, Error: failure, Messages: maps.Clone(c.keeper.messages)}
}

// Status returns the state of a set's policies in the cluster, given the
// filters in contact with any replica. The report is the leader's, or nil if
// this replica leads or no leader is known.
func (c *Cluster) Status(set *schema.Set, fleet api.FiltersStatus, report *api.ClusterReport) api.KubernetesStatus {
	view := &api.KubernetesView{Policies: []api.PolicyPods{}, WasmPlugins: []api.WasmPluginStatus{}, KeptNamespaces: append([]string{}, c.Keep...), AwaitedPods: []api.PodProblem{}}
	denied, failure := c.problems.list()
	messages := map[string]string{}
	if own := c.OwnReport(); own != nil {
		messages = own.Messages
	} else if report != nil {
		messages = report.Messages
		denied = append(denied, report.MissingPermissions...)
		slices.Sort(denied)
		denied = slices.Compact(denied)
		if report.Error != "" && report.Error != failure {
			failure = strings.TrimPrefix(failure+"; the leader: "+report.Error, "; ")
		}
	}
	var podsKnown bool
	view.Pods, view.Workloads, podsKnown = c.pods.size()
	plugins, pluginsKnown := c.plugins.list()
	view.MissingPermissions, view.Error = denied, failure
	if (!podsKnown || !pluginsKnown) && failure == "" && len(denied) == 0 {
		view.Error = "the cluster has not answered yet"
	}
	view.Healthy = view.Error == "" && len(denied) == 0
	c.policies(view, set, fleet.Items, plugins, podsKnown)
	c.wasmPlugins(view, plugins, messages)
	return api.KubernetesStatus{Enabled: true, KubernetesView: view}
}

// selecting returns a function that says whether one of the plugins of a family selects a
// pod, in time by the number of plugins that hfi did not create.
func (c *Cluster) selecting(f *family, plugins []*filterPlugin) func(*pod) bool {
	managed := map[podID]*filterPlugin{}
	others := map[string][]*filterPlugin{}
	for _, plugin := range plugins {
		switch {
		case !plugin.ours || plugin.targetsNoPods || !plugin.isOf(f):
		case plugin.managed:
			managed[plugin.podID] = plugin
		default:
			others[plugin.Namespace] = append(others[plugin.Namespace], plugin)
		}
	}
	return func(pod *pod) bool {
		for _, name := range []string{f.name, f.pluginOf(pod.key())} {
			if plugin := managed[podID{Namespace: pod.Namespace, Name: name}]; plugin != nil && plugin.appliesTo(pod, c.RootNamespace) {
				return true
			}
		}
		return slices.ContainsFunc(slices.Concat(others[pod.Namespace], others[c.RootNamespace]), func(plugin *filterPlugin) bool {
			return plugin.appliesTo(pod, c.RootNamespace)
		})
	}
}

func (c *Cluster) policies(view *api.KubernetesView, set *schema.Set, filters []api.FilterStatus, plugins []*filterPlugin, known bool) {
	if set == nil || !known {
		return
	}
	now := c.Now()
	contacts := contactsByPod(filters)
	connected := sync.OnceValue(func() map[selection.Key]bool { return connectedKeys(filters) })
	// targets are the pods that policies of a family with a selector need a filter in.
	type targets struct {
		*family
		selection.Key
	}
	tallies := map[targets]api.PolicyPods{}
	awaited := map[podID]api.PodProblem{}
	missing := map[targets][]api.PodProblem{}
	selected := map[*family]func(*pod) bool{}
	for _, f := range families {
		selected[f] = c.selecting(f, plugins)
	}
	for _, entry := range set.Entries() {
		key := targets{familyOfPolicy(entry.Policy), selection.KeyOf(entry.Policy.Spec.Selector)}
		row, done := tallies[key]
		if !done {
			pods, useless := c.targeted(key.family, key.Key)
			row, missing[key] = c.tallyPods(key.family, pods, contacts, func(pod *pod) bool {
				if pod.waypoint != "" {
					return selected[waypoints](pod)
				}
				return selected[key.family](pod)
			})
			if row.Pods > 0 || !connected()[key.Key] {
				if row.Warning = warning(key.Key, row); row.Warning != "" && useless != "" {
					row.Warning += ", and " + useless
				}
			}
			tallies[key] = row
		}
		row.Name = entry.Name()
		if entry.Policy.Expired(now) {
			// It needs no filter.
			row.Warning, row.WithoutFilterCount, row.WithoutFilter = "", 0, []api.PodProblem{}
		} else {
			for _, pod := range missing[key] {
				if slices.Contains(c.Keep, pod.Namespace) {
					awaited[podID{Namespace: pod.Namespace, Name: pod.Pod}] = pod
				}
			}
			delete(missing, key) // they are the same for other policies with these targets
		}
		if row.Warning != "" {
			view.PoliciesWithWarning++
		}
		view.Policies = append(view.Policies, row)
	}
	view.AwaitedPodsCount = len(awaited)
	pods := slices.SortedFunc(maps.Values(awaited), comparePods)
	view.AwaitedPods = append(view.AwaitedPods, pods[:min(len(pods), api.MaxPodItems)]...)
	slices.SortStableFunc(view.Policies, func(a, b api.PolicyPods) int { return cmp.Compare(urgency(a), urgency(b)) })
	if len(view.Policies) > api.MaxPolicyItems {
		view.Policies = slices.Clone(view.Policies[:api.MaxPolicyItems])
	}
}

func urgency(row api.PolicyPods) int {
	switch {
	case row.Warning != "":
		return 0
	case row.WithoutFilterCount > 0:
		return 1
	case row.Behind > 0:
		return 2
	}
	return 3
}

func comparePods(a, b api.PodProblem) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
}

// targeted returns the pods that need a filter of a family for policies with a key: those of waypoints
// too, if Services that the key selects use them. useless says why a waypoint does nothing for the
// policies.
func (c *Cluster) targeted(f *family, key selection.Key) (pods []*pod, useless string) {
	pods = c.pods.selected(key)
	if f != inbound {
		return pods, ""
	}
	for _, id := range c.bindings.waypointsOf(key) {
		of := c.pods.selectedWaypoint(id)
		switch {
		case !appliesIn(key, id):
			useless = fmt.Sprintf("in waypoint %s of namespace %s only policies for services of that namespace or of any namespace apply", id.Name, id.Namespace)
		case len(of) == 0:
			useless = fmt.Sprintf("waypoint %s of namespace %s has no pods", id.Name, id.Namespace)
		default:
			pods = append(pods, of...)
		}
	}
	return pods, useless
}

// tallyPods also returns all pods without a working filter for the requests of a family.
func (c *Cluster) tallyPods(f *family, pods []*pod, contacts map[podID]filterContact, selected func(*pod) bool) (api.PolicyPods, []api.PodProblem) {
	row := api.PolicyPods{Pods: len(pods), WithoutFilter: []api.PodProblem{}}
	var without []api.PodProblem
	for _, pod := range pods {
		contact, known := contacts[pod.podID]
		reason := ""
		switch {
		case !known && !pod.sidecar:
			row.WithoutSidecar++
			continue
		case !known && !selected(pod):
			reason = "it has no filter: no " + c.delivery().kind + " selects it"
		case !known && pod.waypoint != "" && c.delivery() != envoyFilters:
			reason = "no contact from its filter: a waypoint has an Envoy cluster for the control plane only if the mesh's extensionProviders name its Service"
		case !known:
			reason = "no contact from its filter"
		case contact.state == api.FilterSilent:
			reason = "its filter stopped asking"
		case contact.state == api.FilterUnable:
			reason = "its filter says that it cannot inject faults"
		case contact.waypoint != pod.waypoint:
			reason = fmt.Sprintf("its filter says that it is waypoint %q, and by its labels it is %q", reconciler.Cut(contact.waypoint, 100), pod.waypoint)
		case contact.gateway != pod.workload.Gateway:
			reason = fmt.Sprintf("its filter says that it is gateway %q, and by its labels it is %q", reconciler.Cut(contact.gateway, 100), pod.workload.Gateway)
		case contact.service != pod.workload.Service:
			reason = fmt.Sprintf("its filter says that it is service %q, and by its owner it is %q", reconciler.Cut(contact.service, 100), pod.workload.Service)
		case contact.lacks(f) && !selected(pod):
			reason = fmt.Sprintf("it has no filter for %s requests: no %s with this direction selects it", f.setting, c.delivery().kind)
		case contact.lacks(f):
			reason = fmt.Sprintf("no contact from a filter for %s requests", f.setting)
		case contact.state == api.FilterCurrent:
			row.Current++
			continue
		default:
			row.Behind++
			continue
		}
		without = append(without, api.PodProblem{Namespace: pod.Namespace, Pod: pod.Name, Reason: reason})
	}
	slices.SortFunc(without, comparePods)
	row.WithoutFilterCount = len(without)
	row.WithoutFilter = append(row.WithoutFilter, without[:min(len(without), api.MaxPodItems)]...)
	return row, without
}

// connectedKeys returns the keys of the selectors that match filters in contact. Those of a
// plain Envoy, or of another controller's gateway, need not be a pod of Istio's.
func connectedKeys(filters []api.FilterStatus) map[selection.Key]bool {
	keys := map[selection.Key]bool{}
	for _, filter := range filters {
		if filter.State == api.FilterSilent {
			continue
		}
		for _, key := range (selection.Workload{Service: filter.Service, Namespace: filter.Namespace, Gateway: filter.Gateway}).Keys() {
			keys[key] = true
		}
	}
	return keys
}

// warning says why policies with a selector can have no effect, or is empty.
func warning(key selection.Key, row api.PolicyPods) string {
	switch {
	case row.Pods == 0 && key.Gateway != "":
		return fmt.Sprintf("it targets nothing: there is no pod of gateway %s in namespace %s", key.Gateway, key.Namespace)
	case row.WithoutSidecar == row.Pods && key.Gateway != "":
		return "none of the gateways that it targets is Istio's"
	case row.Pods == 0:
		return fmt.Sprintf("it targets nothing: there is no pod of service %s in namespace %s", key.Service, key.Namespace)
	case row.WithoutSidecar == row.Pods:
		return "none of the pods that it targets has a sidecar"
	}
	return ""
}

func (c *Cluster) wasmPlugins(view *api.KubernetesView, plugins []*filterPlugin, messages map[string]string) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	listed := map[string]bool{}
	for _, plugin := range plugins {
		kept := slices.Contains(c.Keep, plugin.Namespace)
		if !plugin.ours && !kept {
			continue // It belongs to another control plane.
		}
		row := api.WasmPluginStatus{
			Kind: plugin.object.GetKind(), Namespace: plugin.Namespace, Name: plugin.Name, Managed: plugin.managed, URL: plugin.url, CreatedAt: plugin.created.UTC(),
			Conditions: []api.Condition{}, Message: messages[plugin.Namespace],
		}
		conditions, found := c.keeper.computed[plugin.podID]
		if !found && plugin.ours {
			conditions = plugin.conditions
		}
		for _, condition := range conditions {
			row.Conditions = append(row.Conditions, api.Condition{
				Type: api.ConditionType(condition.Type), Status: string(condition.Status), Reason: condition.Reason, Message: condition.Message,
				LastTransitionTime: condition.LastTransitionTime.UTC(),
			})
		}
		if plugin.managed && !kept {
			row.Message = "hfi created it and no longer manages this namespace (--kube-namespaces): nothing repairs or deletes it"
		}
		listed[plugin.Namespace] = true
		view.WasmPlugins = append(view.WasmPlugins, row)
	}
	// Messages about namespaces that should have a plugin and have none.
	for _, namespace := range c.Keep {
		if message := messages[namespace]; message != "" && !listed[namespace] {
			view.WasmPlugins = append(view.WasmPlugins, api.WasmPluginStatus{
				Kind: c.delivery().kind, Namespace: namespace, Name: PluginName, Managed: true, Conditions: []api.Condition{}, Message: message})
		}
	}
	view.WasmPluginsTotal = len(view.WasmPlugins)
	if view.WasmPluginsTotal <= api.MaxPluginItems {
		return
	}
	slices.SortStableFunc(view.WasmPlugins, func(a, b api.WasmPluginStatus) int { return cmp.Compare(pluginUrgency(a), pluginUrgency(b)) })
	view.WasmPlugins = slices.Clone(view.WasmPlugins[:api.MaxPluginItems])
}

func pluginUrgency(row api.WasmPluginStatus) int {
	switch {
	case slices.ContainsFunc(row.Conditions, func(c api.Condition) bool { return c.Status == "False" }):
		return 0
	case row.Message != "":
		return 1
	}
	return 2
}
