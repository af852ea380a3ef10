package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/boifi/hfi/internal/api"
)

// frontPlugin is the plugin for the workload frontend.
const frontPlugin = "hfi-frontend"

func pluginObject(namespace, name string, change func(spec map[string]any)) *unstructured.Unstructured {
	spec := map[string]any{
		"url": "oci://registry.example.com/filter:1", "phase": "AUTHN",
		"pluginConfig": map[string]any{"control_plane_address": "hfi-control-plane.boifi.svc.cluster.local:8080"},
	}
	if change != nil {
		change(spec)
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "extensions.istio.io/v1alpha1", "kind": "WasmPlugin", "metadata": map[string]any{"name": name, "namespace": namespace}, "spec": spec,
	}}
	object.SetGeneration(1)
	object.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-time.Hour)))
	return object
}

// A namespace in Keep has the WasmPlugin while a policy targets one of its
// pods. Other namespaces have none.
func TestPluginExistsWhilePoliciesTargetItsNamespace(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Keep = []string{"demo", "quiet"} })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("quiet", "batch", "b", nil), podOfDeployment("other", "frontend", "c", nil))
	s.serve("front=frontend/*")
	s.eventually("the plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	spec := s.plugin("demo", frontPlugin).Object["spec"].(map[string]any)
	config := spec["pluginConfig"].(map[string]any)
	if spec["url"] != "http://hfi-control-plane.boifi:8080/v1/filter/"+filterDigest+".wasm" || spec["sha256"] != filterDigest || spec["phase"] != "AUTHN" ||
		spec["failStrategy"] != "FAIL_OPEN" || config["control_plane_address"] != "hfi-control-plane.boifi:8080" ||
		spec["match"].([]any)[0].(map[string]any)["mode"] != "SERVER" {
		t.Errorf("its spec is %v", spec)
	}
	if s.plugin("demo", frontPlugin).GetLabels()[labelManagedBy] != managedBy {
		t.Error("it lacks the label that hfi manages it")
	}
	s.consistently("namespaces without targets, or not in Keep, have none", func() bool {
		return s.plugin("quiet", PluginName) == nil && s.plugin("other", PluginName) == nil
	})
	s.serve("elsewhere=frontend/other")
	s.eventually("the plugin is removed", func() bool { return s.plugin("demo", frontPlugin) == nil })
	s.eventually("Events report both", func() bool {
		events := s.attemptedEvents()
		return slices.Contains(events, "Created") && slices.Contains(events, "Pruned")
	})
	if events := s.attemptedEvents(); slices.Contains(events, "Repaired") {
		t.Errorf("the events are %v", events)
	}
}

// A Deployment scaled to zero for a moment does not cost its namespace the
// loaded filter, as long as a policy names the namespace.
func TestPluginOutlivesItsPods(t *testing.T) {
	s := newFixture(t, nil)
	pod := podOfDeployment("demo", "frontend", "a", nil)
	s.addPods(pod)
	s.serve("front=frontend/demo")
	s.eventually("the plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.deletePod(pod)
	s.consistently("the plugin stays", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.serve()
	s.eventually("without a policy the plugin is deleted", func() bool { return s.plugin("demo", frontPlugin) == nil })
}

// No plugin is deleted before the first policy set is served.
func TestPluginStaysUntilASetIsServed(t *testing.T) {
	s := newFixture(t, nil, ownPlugin(t))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.consistently("the plugin stays", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.serve()
	s.eventually("once an empty set is served, the plugin is deleted", func() bool { return s.plugin("demo", frontPlugin) == nil })
}

// ownPlugin returns the plugin that hfi creates in namespace demo.
func ownPlugin(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	c := New(Clients{})
	c.SHA256 = filterDigest
	var err error
	if c.baseURL, err = parseControlPlane(c.ControlPlane); err != nil {
		t.Fatal(err)
	}
	own := c.desired(inbound, "demo", frontPlugin, map[string]string{"app": "frontend"})
	own.SetGeneration(1)
	own.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-time.Hour)))
	return own
}

// Changes to the spec of hfi's plugin are reverted; what others add to its metadata stays.
func TestPluginIsRepaired(t *testing.T) {
	damaged := ownPlugin(t)
	spec := damaged.Object["spec"].(map[string]any)
	spec["failStrategy"], spec["priority"] = "FAIL_CLOSE", int64(7)
	damaged.SetAnnotations(map[string]string{"team": "shop"})
	s := newFixture(t, nil, damaged)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.serve("front=frontend/demo")
	s.eventually("the spec is restored", func() bool {
		spec := s.plugin("demo", frontPlugin).Object["spec"].(map[string]any)
		return spec["failStrategy"] == "FAIL_OPEN" && spec["priority"] == nil
	})
	if s.plugin("demo", frontPlugin).GetAnnotations()["team"] != "shop" {
		t.Error("an annotation of others was removed")
	}
	s.eventually("an Event reports it", func() bool { return slices.Contains(s.attemptedEvents(), "Repaired") })
	if err := s.objects.Tracker().Delete(wasmPlugins.resource, "demo", frontPlugin); err != nil {
		t.Fatal(err)
	}
	s.eventually("a deleted plugin is created again", func() bool { return s.plugin("demo", frontPlugin) != nil })
}

// hfi waits longer each time that somebody reverts its change. Changes because
// policies are applied and deleted do not wait.
func TestOnlyRepeatedRepairsAreSlowedDown(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.RepairMin = 100 * time.Millisecond })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	exists := func() bool { return s.plugin("demo", frontPlugin) != nil }
	for range 8 {
		s.serve("front=frontend/demo")
		s.eventually("the plugin is created", exists)
		s.serve()
		s.eventually("the plugin is removed", func() bool { return !exists() })
	}
	s.serve("front=frontend/demo")
	s.eventually("the plugin is created", exists)
	undo := func() {
		if err := s.objects.Tracker().Delete(wasmPlugins.resource, "demo", frontPlugin); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		undo()
		s.advance(DefaultRepairMax)
		s.eventually("the plugin is created again", exists)
	}
	undo()
	s.consistently("the next repair waits", func() bool { return !exists() })
}

// hfi does not change a plugin that it did not create, and adds no second filter to the same pods.
func TestForeignPluginIsNotTouched(t *testing.T) {
	for _, name := range []string{frontPlugin, "somebodys"} {
		t.Run(name, func(t *testing.T) {
			foreign := pluginObject("demo", name, nil)
			s := newFixture(t, nil, foreign, pluginObject("demo", "somebody-elses", func(spec map[string]any) { delete(spec, "pluginConfig") }))
			s.addPods(podOfDeployment("demo", "frontend", "a", nil))
			set := s.serve("front=frontend/demo")
			s.eventually("the status reports it", func() bool {
				view := s.view(set)
				return len(view.WasmPlugins) == 1 && !view.WasmPlugins[0].Managed && strings.Contains(view.WasmPlugins[0].Message, "did not create it")
			})
			s.serve()
			s.consistently("its spec stays", func() bool {
				object := s.plugin("demo", name)
				return object != nil && object.Object["spec"].(map[string]any)["url"] == "oci://registry.example.com/filter:1"
			})
			for _, action := range s.objects.Actions() {
				if action.GetResource() == wasmPlugins.resource && action.GetSubresource() == "" && slices.Contains([]string{"create", "update", "delete", "patch"}, action.GetVerb()) {
					t.Errorf("hfi sent %s", action.GetVerb())
				}
			}
		})
	}
}

// A follower watches and changes nothing. It does once it leads.
func TestOnlyTheLeaderMakesChanges(t *testing.T) {
	reports := make(chan *api.ClusterReport, 1000)
	s := newFixture(t, func(s *fixture) {
		s.leads = false
		s.Report = func(report *api.ClusterReport) {
			select {
			case reports <- report:
			default:
			}
		}
	})
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.consistently("a follower creates nothing", func() bool { return s.plugin("demo", frontPlugin) == nil })
	if got := row(s.view(set), "front"); got.Pods != 1 {
		t.Errorf("a follower sees %+v", got)
	}
	// A follower shows what the leader reports.
	s.set(func() {
		s.report = &api.ClusterReport{MissingPermissions: []string{"create wasmplugins in namespace demo"}, Messages: map[string]string{"demo": "a message"}}
	})
	if view := s.view(set); len(view.MissingPermissions) != 1 || view.Healthy || len(view.WasmPlugins) != 1 || view.WasmPlugins[0].Message != "a message" {
		t.Errorf("a follower shows %+v", view)
	}
	if s.OwnReport() != nil {
		t.Error("a follower reports as the leader")
	}
	if report := <-reports; report != nil {
		t.Errorf("a follower reports %+v", report)
	}
	s.set(func() { s.leads, s.report = true, nil })
	s.eventually("the leader creates the plugin", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.eventually("the leader reports to the other replicas", func() bool {
		select {
		case report := <-reports:
			return report != nil && report.Messages != nil
		default:
			return false
		}
	})
}

// Each missing permission is named, and everything that does not need it is
// done. Once it is granted, the rest is done too.
func TestMissingPermissionIsNamedAndTheRestIsDone(t *testing.T) {
	front := []string{"front=frontend/demo"}
	for _, c := range []struct {
		denied, named string
		// does returns true once the rest is done.
		does func(s *fixture, view *api.KubernetesView) bool
	}{
		{"list pods", "list pods", func(s *fixture, view *api.KubernetesView) bool {
			// Labels are unknown too, so the plugin selects all pods.
			return s.plugin("demo", PluginName) != nil && s.condition("demo", PluginName, conditionLoaded).Reason == reasonPodsUnknown
		}},
		{"watch pods", "watch pods", func(s *fixture, view *api.KubernetesView) bool {
			return view.Pods == 1 && s.plugin("demo", frontPlugin) != nil
		}},
		{"list wasmplugins", "list wasmplugins", func(s *fixture, view *api.KubernetesView) bool { return row(view, "front").Pods == 1 }},
		{"create wasmplugins", "create wasmplugins in namespace demo", func(s *fixture, view *api.KubernetesView) bool { return row(view, "front").Pods == 1 }},
		{"patch wasmplugins/status", "patch wasmplugins/status in namespace demo", func(s *fixture, view *api.KubernetesView) bool {
			return s.plugin("demo", frontPlugin) != nil && len(view.WasmPlugins) == 1 && len(view.WasmPlugins[0].Conditions) == 2
		}},
		{"create events", "create events in namespace demo", func(s *fixture, view *api.KubernetesView) bool {
			return s.condition("demo", frontPlugin, conditionLoaded).Type != ""
		}},
	} {
		t.Run(c.denied, func(t *testing.T) {
			s := newFixture(t, func(s *fixture) { s.deny(c.denied) })
			s.addPods(podOfDeployment("demo", "frontend", "a", nil))
			set := s.serve(front...)
			s.eventually("the permission is named and the rest is done", func() bool {
				view := s.view(set)
				return slices.Equal(view.MissingPermissions, []string{c.named}) && !view.Healthy && c.does(s, view)
			})
			s.grant(c.denied)
			s.eventually("with the permission all is done", func() bool {
				view := s.view(set)
				return view.Healthy && len(view.MissingPermissions) == 0 && s.condition("demo", frontPlugin, conditionLoaded).Type != ""
			})
		})
	}
}

// A failure is reported until the request succeeds or is no longer needed.
func TestFailureIsReportedWhileItLasts(t *testing.T) {
	filter := func(s *fixture, state api.FilterState) {
		s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": state})
	}
	apply := func(s *fixture) { s.serve("front=frontend/demo") }
	for _, c := range []struct {
		what, fails string
		// objects exist before. cause makes a request necessary, which fails; over ends that.
		objects     []runtime.Object
		cause, over func(s *fixture)
	}{
		{"an Event can be created again", "create events", nil, apply,
			func(s *fixture) {
				s.set(func() { clear(s.failed) })
				s.eventually("the Event is created", func() bool { return slices.Contains(s.eventsIn("demo"), "Created") })
			}},
		{"an Event's namespace is deleted", "create events", nil, apply,
			func(s *fixture) {
				s.set(func() { s.failed["create events"] = apierrors.NewNotFound(eventResource.GroupResource(), "demo") })
			}},
		{"a plugin is no longer wanted", "create wasmplugins", nil, apply, func(s *fixture) { s.serve() }},
		{"somebody else creates a plugin", "create wasmplugins", nil, apply,
			func(s *fixture) {
				if err := s.objects.Tracker().Create(wasmPlugins.resource, pluginObject("demo", "by-hand", nil), "demo"); err != nil {
					t.Fatal(err)
				}
			}},
		{"a status needs no change any more", "patch wasmplugins/status", []runtime.Object{pluginObject("demo", "by-hand", nil)},
			func(s *fixture) { filter(s, api.FilterSilent) }, func(s *fixture) { filter(s, api.FilterCurrent) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newFixture(t, nil, c.objects...)
			s.addPods(podOfDeployment("demo", "frontend", "a", nil))
			filter(s, api.FilterCurrent)
			s.eventually("the cluster is healthy", func() bool {
				return s.view(nil).Healthy && (c.objects == nil || s.condition("demo", "by-hand", conditionLoaded).Status == "True")
			})
			s.set(func() { s.failed[c.fails] = errors.New("etcdserver: request timed out") })
			c.cause(s)
			s.eventually("the status names the request", func() bool { return strings.Contains(s.view(nil).Error, c.fails) })
			c.over(s)
			s.eventually("the failure is cleared", func() bool { return s.view(nil).Healthy })
			s.consistently("the failure stays cleared", func() bool { return s.view(nil).Healthy })
		})
	}
}

// An outage of the API server is reported, and changes are made up for after it.
func TestOutageOfTheAPIServer(t *testing.T) {
	s := newFixture(t, nil)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("all is done", func() bool { return s.view(set).Healthy && s.plugin("demo", frontPlugin) != nil })
	refused := errors.New("connect: connection refused")
	calls := []string{"list pods", "watch pods", "list wasmplugins", "watch wasmplugins", "create wasmplugins", "update wasmplugins", "delete wasmplugins", "patch wasmplugins/status"}
	s.each(calls, func(call string) { s.failed[call] = refused })
	s.serve()
	s.eventually("the status reports an error and no missing permission", func() bool {
		view := s.view(set)
		return !view.Healthy && strings.Contains(view.Error, "connection refused") && len(view.MissingPermissions) == 0
	})
	if s.plugin("demo", frontPlugin) == nil {
		t.Error("the plugin was deleted during the outage")
	}
	if got := row(s.view(set), "front"); got.Pods != 1 {
		t.Errorf("the pods were forgotten: %+v", got)
	}
	s.each(calls, func(call string) { delete(s.failed, call) })
	s.eventually("the pending change is made", func() bool { return s.view(set).Healthy && s.plugin("demo", frontPlugin) == nil })
}

// client-go returns an empty watch and no error if the API server does not
// answer. That is reported as a failure.
func TestUnresponsiveAPIServerIsReported(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.failed["watch pods"] = errEmptyWatch })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("the status reports it", func() bool {
		return strings.Contains(s.view(set).Error, "watch pods: the API server does not answer")
	})
	s.set(func() { delete(s.failed, "watch pods") })
	s.eventually("the cluster is healthy again", func() bool { return s.view(set).Healthy })
}
