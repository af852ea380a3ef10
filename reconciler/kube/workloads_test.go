package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubetesting "k8s.io/client-go/testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
)

// selector returns the labels that a WasmPlugin in the cluster selects, or nil.
func (s *fixture) selector(name string) map[string]string {
	s.t.Helper()
	object := s.plugin("demo", name)
	if object == nil {
		return nil
	}
	labels, _, _ := unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels")
	return labels
}

// changes returns the creations and deletions of plugins so far, each written VERB NAME.
func (s *fixture) changes() (changes []string) {
	for _, action := range s.objects.Actions() {
		if action.GetResource() != wasmPlugins.resource || action.GetSubresource() != "" {
			continue
		}
		switch action := action.(type) {
		case kubetesting.CreateAction:
			object, _ := action.GetObject().(*unstructured.Unstructured)
			if action.GetVerb() == "create" {
				changes = append(changes, "create "+object.GetName())
			}
		case kubetesting.DeleteAction:
			changes = append(changes, "delete "+action.GetName())
		}
	}
	return changes
}

// Only workloads that a policy names get a plugin, for their labels. A policy
// for all workloads has one plugin in place of these, without a moment in
// between in which a pod has two for long, or none.
func TestOnlyTargetedWorkloadsHaveAPlugin(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Minute })
	s.addPods(podOfDeployment("demo", "frontend", "a", map[string]string{"team": "shop"}), podOfDeployment("demo", "frontend", "b", nil),
		podOfDeployment("demo", "catalog", "c", nil), podOfDeployment("demo", "cart", "d", nil))
	s.serve("front=frontend/demo", "cart=cart/*")
	s.eventually("the targeted workloads have one each", func() bool {
		return maps.Equal(s.selector(frontPlugin), map[string]string{"app": "frontend"}) && maps.Equal(s.selector("hfi-cart"), map[string]string{"app": "cart"})
	})
	s.consistently("nothing else has", func() bool { return s.plugin("demo", PluginName) == nil && s.plugin("demo", "hfi-catalog") == nil })

	s.serve("front=frontend/demo", "cart=cart/*", "all=*/demo")
	s.eventually("one plugin replaces them", func() bool {
		return s.plugin("demo", PluginName) != nil && s.plugin("demo", frontPlugin) == nil && s.plugin("demo", "hfi-cart") == nil
	})
	if s.selector(PluginName) != nil {
		t.Errorf("it selects %v", s.selector(PluginName))
	}
	s.serve("front=frontend/demo")
	s.consistently("it stays for a while, alone", func() bool { return s.plugin("demo", PluginName) != nil && s.plugin("demo", frontPlugin) == nil })
	s.advance(time.Minute)
	s.eventually("then the workload has its own again", func() bool { return s.plugin("demo", PluginName) == nil && s.plugin("demo", frontPlugin) != nil })
	changes := s.changes()
	slices.Sort(changes[:2])
	slices.Sort(changes[3:5])
	want := []string{"create hfi-cart", "create hfi-frontend", "create hfi", "delete hfi-cart", "delete hfi-frontend", "create hfi-frontend", "delete hfi"}
	if !slices.Equal(changes, want) {
		t.Errorf("the changes were %v, want %v", changes, want)
	}
}

// What replaces a plugin is created first, and the plugin is deleted right after
// that: istiod sends both changes at once, as it waits for more after each.
func TestReplacementIsOneChangeForIstio(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Settle, s.Interval, s.Linger = time.Hour, time.Hour, time.Minute })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	eventually(t, "the pods and plugins are known", func() bool {
		_, synced := s.plugins.list()
		return synced && s.view(nil).Pods == 1
	})
	pass := func(policies ...string) {
		s.keeper.serve(setOf(t, policies...))
		s.keeper.due["demo"] = time.Time{}
		s.keeper.reconcile(t.Context())
	}
	// The keeper waits for Settle, so this is the only goroutine that uses it.
	pass("front=frontend/demo")
	if s.plugin("demo", frontPlugin) == nil {
		t.Fatal("the workload has no plugin")
	}
	s.advance(DefaultRepairMin)
	pass("front=frontend/demo", "all=*/demo")
	if s.plugin("demo", PluginName) == nil || s.plugin("demo", frontPlugin) != nil {
		t.Errorf("one pass made %v", s.changes())
	}
}

// A plugin outlives its last policy by Linger, and a policy that comes back changes nothing.
func TestPluginLingers(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Minute })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.serve("front=frontend/demo")
	s.eventually("the plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.serve()
	s.advance(50 * time.Second)
	s.consistently("it lingers", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.serve("front=frontend/demo")
	s.consistently("the policy is back", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.advance(50 * time.Second)
	s.serve()
	s.consistently("it lingers again", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.advance(time.Minute)
	s.eventually("then it is deleted", func() bool { return s.plugin("demo", frontPlugin) == nil })
	if changes := s.changes(); len(changes) != 2 {
		t.Errorf("the changes were %v", changes)
	}
}

// A plugin that lingers is deleted at once if it selects pods of a workload that
// has its own by now, because these would have two filters.
func TestLingeringPluginSelectsNoOthersPods(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Hour })
	old := podOfDeployment("demo", "frontend", "a", nil)
	s.addPods(old)
	s.serve("front=frontend/demo")
	s.eventually("the plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.deletePod(old)
	s.addPods(podOfDeployment("demo", "frontend-v2", "b", map[string]string{"app": "frontend"}))
	s.serve("front=frontend-v2/demo")
	s.eventually("the new workload's plugin replaces it", func() bool {
		return s.plugin("demo", "hfi-frontend-v2") != nil && s.plugin("demo", frontPlugin) == nil
	})
}

// A workload whose labels another one has too is loaded by the plugin for all
// pods: two plugins for the same pods would fault more requests than the policies say.
func TestWorkloadsWithTheSameLabels(t *testing.T) {
	s := newFixture(t, nil)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend-canary", "b", map[string]string{"app": "frontend"}))
	s.serve("front=frontend/demo")
	s.eventually("the plugin for all pods is created", func() bool { return s.plugin("demo", PluginName) != nil && s.plugin("demo", frontPlugin) == nil })
}

// A plugin's selector is as hfi wants it, and follows the labels of the pods.
func TestSelectorFollowsTheLabels(t *testing.T) {
	s := newFixture(t, nil)
	first := podOfDeployment("demo", "frontend", "a", map[string]string{"app": "shop", "tier": "web"})
	s.addPods(first, podOfDeployment("demo", "catalog", "b", map[string]string{"app": "shop"}))
	s.serve("front=frontend/demo")
	s.eventually("the plugin selects the pods", func() bool {
		return maps.Equal(s.selector(frontPlugin), map[string]string{"tier": "web"})
	})
	s.addPods(podOfDeployment("demo", "frontend", "c", map[string]string{"app": "shop", "role": "web"}))
	s.deletePod(first)
	s.eventually("the plugin selects the new ones", func() bool {
		return maps.Equal(s.selector(frontPlugin), map[string]string{"role": "web"})
	})
}

// A plugin of somebody else's concerns the workloads only that it selects.
func TestForeignPluginForAnotherWorkload(t *testing.T) {
	s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
		spec["selector"] = map[string]any{"matchLabels": map[string]any{"app": "catalog"}}
	}))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "catalog", "b", nil))
	set := s.serve("front=frontend/demo", "catalog=catalog/demo")
	s.eventually("the other workload has a plugin", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.consistently("this one has none of hfi's", func() bool { return s.plugin("demo", "hfi-catalog") == nil })
	if view := s.view(set); !strings.Contains(view.WasmPlugins[0].Message, "by-hand refers to this control plane too") {
		t.Errorf("the status lists %+v", view.WasmPlugins)
	}
}

// A plugin for a gateway concerns no workload, unless it has the name of one's plugin.
func TestForeignPluginForAGateway(t *testing.T) {
	forGateway := func(spec map[string]any) {
		spec["targetRefs"] = []any{map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}}
	}
	s := newFixture(t, nil, pluginObject("demo", "by-hand", forGateway), pluginObject("demo", "hfi-catalog", forGateway))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "catalog", "b", nil))
	set := s.serve("front=frontend/demo", "catalog=catalog/demo")
	s.eventually("the workload has a plugin, and the name of the other's is reported as taken", func() bool {
		rows := s.view(set).WasmPlugins
		return s.plugin("demo", frontPlugin) != nil && len(rows) > 0 && strings.Contains(rows[0].Message, "hfi-catalog is not for workloads")
	})
}

// The selector has labels that all pods of the workload have, and no pod of another.
func TestSelectorOf(t *testing.T) {
	type pods map[string][]map[string]string // by workload
	for _, c := range []struct {
		what    string
		pods    pods
		current map[string]string
		want    map[string]string
	}{
		{"the usual label", pods{"frontend": {{"app": "frontend", "a": "b"}}, "cart": {{"app": "cart", "a": "b"}}}, nil, map[string]string{"app": "frontend"}},
		{"the recommended labels", pods{"frontend": {{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "one", "helm.sh/chart": "web-1"}},
			"cart": {{"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": "two", "helm.sh/chart": "web-1"}}}, nil,
			map[string]string{"app.kubernetes.io/instance": "one"}},
		{"several labels together", pods{"frontend": {{"app": "x", "tier": "web"}}, "cart": {{"app": "x", "tier": "data"}}, "db": {{"app": "y", "tier": "web"}}}, nil,
			map[string]string{"app": "x", "tier": "web"}},
		{"versions last", pods{"frontend": {{"app": "x", "version": "v1"}}, "frontend-v2": {{"app": "x", "version": "v2"}}, "cart": {{"app": "y", "version": "v1"}}}, nil,
			map[string]string{"app": "x", "version": "v1"}},
		{"a label of some pods only", pods{"frontend": {{"app": "frontend", "version": "v1"}, {"version": "v1"}}, "cart": {{"app": "cart"}}}, nil,
			map[string]string{"version": "v1"}},
		{"the current one, if it will do", pods{"frontend": {{"app": "frontend", "tier": "web"}}, "cart": {{"app": "cart"}}}, map[string]string{"tier": "web"},
			map[string]string{"tier": "web"}},
		{"not the current one, if it selects too few", pods{"frontend": {{"app": "frontend", "tier": "web"}, {"app": "frontend"}}}, map[string]string{"tier": "web"},
			map[string]string{"app": "frontend"}},
		{"not the current one, if it selects too many", pods{"frontend": {{"app": "frontend", "tier": "web"}}, "cart": {{"app": "cart", "tier": "web"}}}, map[string]string{"tier": "web"},
			map[string]string{"app": "frontend"}},
		{"no label of one pod or revision", pods{"frontend": {{labelTemplateHash: "1", "statefulset.kubernetes.io/pod-name": "frontend-0"}}}, nil, nil},
		{"no labels", pods{"frontend": {{}}}, nil, nil},
		{"no pods", pods{"cart": {{"app": "cart"}}}, nil, nil},
	} {
		store := newPodStore(func() {}, func() {}, func(podID) {})
		for workload, each := range c.pods {
			for i, labels := range each {
				pod := podOfDeployment("demo", workload, fmt.Sprint(i), nil)
				labels = maps.Clone(labels)
				labels[labelWorkload] = workload
				pod.Labels = labels
				// The label that names the workload would do in every case.
				volatile := labelWorkload
				pod.OwnerReferences[0].Kind, pod.OwnerReferences[0].Name = "StatefulSet", workload
				delete(labels, volatile)
				if err := store.Add(pod); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got, found := store.selectorOf("demo", "frontend", c.current); !maps.Equal(got, c.want) || found != (c.want != nil) {
			t.Errorf("%s: got %v, want %v", c.what, got, c.want)
		}
	}
}

// A plugin's name is valid, and different for each workload and family.
func TestPluginNames(t *testing.T) {
	names := map[string]string{}
	for _, f := range families {
		for _, workload := range []string{"frontend", "Frontend", "FRONTEND", "front_end", "front.end", "-x-", ".outbound", "outbound", strings.Repeat("a", 253), strings.Repeat("a", 252) + "b", ""} {
			name := f.pluginOf(workload)
			if len(name) > maxName || familyOf(name) != f || name == f.name || names[name] != "" {
				t.Errorf("%q and %q have the name %q", workload, names[name], name)
			}
			names[name] = workload
			object := &metav1.ObjectMeta{Name: name}
			if f.pluginOf(workload) != object.Name {
				t.Errorf("%q has several names", workload)
			}
		}
		if familyOf(f.name) != f || f.pluginOf("frontend") != f.name+"-frontend" {
			t.Errorf("frontend has the name %q", f.pluginOf("frontend"))
		}
	}
}

// One change among ten thousand workloads costs what one workload costs, wherever
// it is: nothing is listed again.
func TestOneChangeAmongTenThousandWorkloads(t *testing.T) {
	cost := func(namespaces int) float64 {
		c := New(Clients{})
		c.SHA256 = filterDigest
		var err error
		if c.baseURL, err = parseControlPlane(c.ControlPlane); err != nil {
			t.Fatal(err)
		}
		var policies []string
		var pods []any
		for i := range namespaces * 20 {
			namespace, workload := fmt.Sprintf("team-%d", i%namespaces), fmt.Sprintf("service-%d", i)
			pods = append(pods, podOfDeployment(namespace, workload, "a", nil))
			policies = append(policies, fmt.Sprintf("p%d=%s/%s", i, workload, namespace))
			if c.Keep = append(c.Keep, namespace); i >= namespaces {
				c.Keep = c.Keep[:namespaces]
			}
		}
		if err := c.pods.Replace(pods, "1"); err != nil {
			t.Fatal(err)
		}
		var plugins []any
		for i := range namespaces * 20 {
			namespace, workload := fmt.Sprintf("team-%d", i%namespaces), fmt.Sprintf("service-%d", i)
			plugins = append(plugins, c.desired(inbound, namespace, inbound.pluginOf(workload), map[string]string{"app": workload}))
		}
		if err := c.plugins.Replace(plugins, "1"); err != nil {
			t.Fatal(err)
		}
		c.Leads = func() bool { return true }
		k := c.keeper
		k.leftoversAt = time.Now() // There is no API server to list them.
		k.serve(setOf(t, policies...))
		k.reconcile(t.Context()) // All are due, and nothing is to be done.
		if len(k.due) > 0 {
			t.Fatalf("due are %v", k.due)
		}
		k.allDueAt = time.Now().Add(time.Hour)
		started := podOfDeployment("team-1", "service-1", "b", nil)
		return testing.AllocsPerRun(10, func() {
			if c.pods.Add(started) != nil || c.pods.Delete(started) != nil {
				t.Error("a pod cannot be added")
			}
			k.reconcile(t.Context())
		})
	}
	few, many := cost(5), cost(500)
	t.Logf("%v allocations for a change among 100 workloads, %v among 10,000", few, many)
	if many > 1.2*few {
		t.Errorf("a change costs %v allocations among 100 workloads, and %v among 10,000", few, many)
	}
}

// A policy's pods without a filter are named, with what is missing. A policy
// that has expired needs none, and neither do pods that no policy targets.
func TestStatusNamesTargetedPodsWithoutAFilter(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.deny("create wasmplugins") })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "catalog", "b", nil))
	set := s.serve("front=frontend/demo")
	without := func() []api.PodProblem { return row(s.view(set), "front").WithoutFilter }
	s.eventually("the pod is named", func() bool {
		list := without()
		return len(list) == 1 && list[0].Pod == "frontend-abc12-a" && list[0].Reason == "it has no filter: no WasmPlugin selects it"
	})
	if view := s.view(set); view.AwaitedPodsCount != 1 || len(view.AwaitedPods) != 1 || view.AwaitedPods[0].Pod != "frontend-abc12-a" {
		t.Errorf("awaited are %d pods: %+v", view.AwaitedPodsCount, view.AwaitedPods)
	}
	s.grant("create wasmplugins")
	s.eventually("with the plugin, its filter is waited for", func() bool {
		list := without()
		return len(list) == 1 && list[0].Reason == "no contact from its filter"
	})
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the plugin is loaded, and no other pod is waited for", func() bool {
		return len(without()) == 0 && s.condition("demo", frontPlugin, conditionLoaded).Status == "True"
	})
	testtool.Throughout(t, 5*s.Interval, "only its own pod counts", func() error {
		if message := s.condition("demo", frontPlugin, conditionLoaded).Message; message != "loaded on 1 of 1 pods" {
			return fmt.Errorf("it says %q", message)
		}
		return nil
	})
}
