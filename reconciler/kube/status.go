package kube

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Pods counts the pods that a selector targets, and costs the same however
// many there are; known is false before the pods of the cluster were seen.
func (c *Cluster) Pods(selector schema.Selector) (count int, known bool) {
	_, _, known = c.pods.size()
	return c.pods.count(selection.KeyOf(selector)), known
}

// Told is what this replica found out by acting, if it leads, else nil.
func (c *Cluster) Told() *api.ClusterReport {
	if !c.Leads() {
		return nil
	}
	denied, failure := c.problems.list()
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	return &api.ClusterReport{MissingPermissions: denied, Error: failure, Messages: maps.Clone(c.keeper.messages)}
}

// Status says how the policies of a set stand in the cluster, by the whole
// fleet of filters. Policies with one selector are looked at once. The report
// is the leader's, or nil if this replica leads or the leader is not known.
func (c *Cluster) Status(set *schema.Set, fleet api.FiltersStatus, report *api.ClusterReport) api.KubernetesStatus {
	view := &api.KubernetesView{Policies: []api.PolicyPods{}, WasmPlugins: []api.WasmPluginStatus{}, KeptNamespaces: append([]string{}, c.Keep...)}
	denied, failure := c.problems.list()
	messages := map[string]string{}
	if mine := c.Told(); mine != nil {
		messages = mine.Messages
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
	c.policies(view, set, contactsOf(fleet.Items), podsKnown)
	c.wasmPlugins(view, plugins, messages)
	return api.KubernetesStatus{Enabled: true, KubernetesView: view}
}

func (c *Cluster) policies(view *api.KubernetesView, set *schema.Set, contacts map[podID]contact, known bool) {
	if set == nil || !known {
		return
	}
	now := c.Now()
	tallies := map[selection.Key]api.PolicyPods{}
	for _, entry := range set.Entries() {
		key := selection.KeyOf(entry.Policy.Spec.Selector)
		row, done := tallies[key]
		if !done {
			row = tally(c.pods.selected(key), contacts)
			row.Warning = warning(key, row)
			tallies[key] = row
		}
		row.Name = entry.Name()
		if entry.Policy.Expired(now) {
			row.Warning = ""
		}
		if row.Warning != "" {
			view.PoliciesWithWarning++
		}
		view.Policies = append(view.Policies, row)
	}
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

func tally(pods []*pod, contacts map[podID]contact) api.PolicyPods {
	row := api.PolicyPods{Pods: len(pods), WithoutFilter: []api.PodProblem{}}
	var without []api.PodProblem
	for _, one := range pods {
		has, known := contacts[one.podID]
		reason := ""
		switch {
		case !known && !one.sidecar:
			row.WithoutSidecar++
			continue
		case !known:
			reason = "no contact from its filter"
		case has.state == api.FilterSilent:
			reason = "its filter stopped asking"
		case has.service != one.workload.Service:
			reason = fmt.Sprintf("its filter says that it is service %q, and by its owner it is %q", reconciler.Cut(has.service, 100), one.workload.Service)
		case has.state == api.FilterCurrent:
			row.Current++
			continue
		default:
			row.Behind++
			continue
		}
		without = append(without, api.PodProblem{Namespace: one.Namespace, Pod: one.Name, Reason: reason})
	}
	slices.SortFunc(without, func(a, b api.PodProblem) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
	})
	row.WithoutFilterCount = len(without)
	row.WithoutFilter = append(row.WithoutFilter, without[:min(len(without), api.MaxPodItems)]...)
	return row
}

// warning says why the policies of a selector can have no effect, or is empty.
func warning(key selection.Key, row api.PolicyPods) string {
	switch {
	case row.Pods == 0:
		return fmt.Sprintf("it targets nothing: no pod is of service %s in namespace %s", key.Service, key.Namespace)
	case row.WithoutSidecar == row.Pods:
		return "none of the pods that it targets has a sidecar"
	}
	return ""
}

func (c *Cluster) wasmPlugins(view *api.KubernetesView, plugins []*plugin, messages map[string]string) {
	c.keeper.mu.Lock()
	defer c.keeper.mu.Unlock()
	told := map[string]bool{}
	for _, one := range plugins {
		kept := slices.Contains(c.Keep, one.Namespace)
		if !one.leadsHome && !kept {
			continue // another control plane's
		}
		row := api.WasmPluginStatus{
			Namespace: one.Namespace, Name: one.Name, Managed: one.managed, URL: one.url, CreatedAt: one.created.UTC(),
			Conditions: []api.Condition{}, Message: messages[one.Namespace],
		}
		if judged, found := c.keeper.judged[one.podID]; found {
			row.Conditions = judged
		} else if one.leadsHome {
			row.Conditions = append(row.Conditions, one.conditions...)
		}
		if one.managed && !kept {
			row.Message = "hfi made it, and does not keep this namespace any more (--kube-namespaces): nobody repairs or removes it"
		}
		told[one.Namespace] = true
		view.WasmPlugins = append(view.WasmPlugins, row)
	}
	// What is wrong where there is no plugin, and is meant to be one.
	for _, namespace := range c.Keep {
		if message := messages[namespace]; message != "" && !told[namespace] {
			view.WasmPlugins = append(view.WasmPlugins, api.WasmPluginStatus{
				Namespace: namespace, Name: PluginName, Managed: true, Conditions: []api.Condition{}, Message: message})
		}
	}
}
