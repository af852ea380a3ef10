package kube

import (
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// forApp makes a plugin select the pods with a value of the label app.
func forApp(app string) func(spec map[string]any) {
	return func(spec map[string]any) {
		spec["selector"] = map[string]any{"matchLabels": map[string]any{"app": app}}
	}
}

// ownForAll returns the plugin that hfi creates for all pods of namespace demo.
func ownForAll(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	own := ownPlugin(t)
	own.SetName(PluginName)
	delete(own.Object["spec"].(map[string]any), "selector")
	return own
}

// A list of pods that fails for a moment puts the filter on no further pod, and
// no plugin of a workload is deleted without knowledge of the pods.
func TestPodsThatCannotBeListedForAMoment(t *testing.T) {
	slow := errors.New("the server was unable to return a response in the time allotted")
	fail := func(s *fixture) { s.failed["list pods"], s.failed["watch pods"] = slow, slow }
	t.Run("workloads keep their plugins", func(t *testing.T) {
		s := newFixture(t, fail, ownPlugin(t))
		s.addPods(podOfDeployment("demo", "frontend", "a", nil))
		set := s.serve("front=frontend/demo")
		unchanged := func() bool { return s.plugin("demo", PluginName) == nil && s.plugin("demo", frontPlugin) != nil }
		s.eventually("the failure is known", func() bool { return strings.Contains(s.view(set).Error, "pods") })
		s.consistently("at first", unchanged)
		s.advance(s.RolloutLimit + time.Second)
		s.eventually("the status says so", func() bool {
			rows := s.view(set).WasmPlugins
			return len(rows) > 0 && strings.Contains(rows[0].Message, "the pods are unknown")
		})
		s.consistently("later", unchanged)
		s.serve()
		s.eventually("without a policy it is deleted", func() bool { return s.plugin("demo", frontPlugin) == nil })
	})
	t.Run("all pods get it only if that lasts", func(t *testing.T) {
		s := newFixture(t, fail)
		s.addPods(podOfDeployment("demo", "frontend", "a", nil))
		set := s.serve("front=frontend/demo")
		s.eventually("the failure is known", func() bool { return strings.Contains(s.view(set).Error, "pods") })
		s.consistently("nothing is created", func() bool { return s.plugin("demo", PluginName) == nil })
		s.advance(s.RolloutLimit + time.Second)
		s.eventually("then the plugin for all pods is", func() bool { return s.plugin("demo", PluginName) != nil })
	})
}

// A plugin is deleted only once what replaces it is as hfi wants it: one that
// somebody changed may select other pods.
func TestReplacementMustBeInEffect(t *testing.T) {
	narrowed := ownForAll(t)
	forApp("cart")(narrowed.Object["spec"].(map[string]any))
	s := newFixture(t, func(s *fixture) { s.deny("update wasmplugins") }, narrowed, ownPlugin(t))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	set := s.serve("all=*/demo")
	s.eventually("the repair is denied", func() bool { return len(s.view(set).MissingPermissions) > 0 })
	s.consistently("the workload keeps its plugin", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.grant("update wasmplugins")
	s.eventually("after the repair it is replaced", func() bool { return s.plugin("demo", frontPlugin) == nil })
}

// An object that gives pods no filter and has the name of a workload's plugin does not replace the plugin for all pods.
func TestTakenNameReplacesNoPlugin(t *testing.T) {
	elsewhere := pluginObject("demo", frontPlugin, func(spec map[string]any) {
		spec["pluginConfig"] = map[string]any{"control_plane_address": "another.example.com:8080"}
	})
	s := newFixture(t, nil, ownForAll(t), elsewhere)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	set := s.serve("front=frontend/demo", "cart=cart/demo")
	s.eventually("the status says why", func() bool {
		rows := s.view(set).WasmPlugins
		return len(rows) > 0 && strings.Contains(rows[0].Message, frontPlugin+" refers to another control plane")
	})
	s.consistently("the plugin for all pods stays, alone", func() bool {
		return s.plugin("demo", PluginName) != nil && s.plugin("demo", "hfi-cart") == nil
	})
}

// Where a plugin of others selects some workloads, a policy for all gives each of the others its own plugin.
func TestPolicyForAllBesideAForeignPlugin(t *testing.T) {
	s := newFixture(t, nil, pluginObject("demo", "by-hand", forApp("catalog")))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil), podOfDeployment("demo", "catalog", "c", nil))
	s.serve("front=frontend/demo", "all=*/demo")
	s.eventually("the others have plugins", func() bool { return s.plugin("demo", frontPlugin) != nil && s.plugin("demo", "hfi-cart") != nil })
	s.consistently("no pod has two", func() bool { return s.plugin("demo", PluginName) == nil && s.plugin("demo", "hfi-catalog") == nil })
}

// A plugin of others that selects no pod is in nobody's way.
func TestForeignPluginWithoutPods(t *testing.T) {
	s := newFixture(t, nil, pluginObject("demo", "by-hand", forApp("gone")))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.serve("all=*/demo")
	s.eventually("all pods have the plugin", func() bool { return s.plugin("demo", PluginName) != nil })
}

// A plugin that lingers is not recorded as wanted and unwanted in turn: each
// change of mind would let the next change go without a wait.
func TestDeniedDeletionsWaitWhileThePluginForAllLingers(t *testing.T) {
	s := newFixture(t, func(s *fixture) {
		s.Linger, s.RetryMax = time.Hour, time.Hour
		s.deny("delete wasmplugins")
	}, ownForAll(t), ownPlugin(t))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.serve("front=frontend/demo")
	deletions := func() (count int) {
		for _, change := range s.changes() {
			if strings.HasPrefix(change, "delete ") {
				count++
			}
		}
		return count
	}
	s.eventually("a deletion is tried", func() bool { return deletions() > 0 })
	s.consistently("few are", func() bool { return deletions() < 12 })
}
