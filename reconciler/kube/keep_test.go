package kube

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
)

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

// A namespace has the WasmPlugin from when on a policy targets a pod of it
// until none does, and pays nothing else; one that hfi was not told of never.
func TestPluginLivesWhilePoliciesTargetItsNamespace(t *testing.T) {
	s := newStage(t, func(s *stage) { s.Keep = []string{"demo", "quiet"} })
	s.start(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("quiet", "batch", "b", nil), podOfDeployment("other", "frontend", "c", nil))
	s.serve("front=frontend/*")
	s.eventually("the plugin is made", func() bool { return s.plugin("demo", PluginName) != nil })
	spec := s.plugin("demo", PluginName).Object["spec"].(map[string]any)
	config := spec["pluginConfig"].(map[string]any)
	if spec["url"] != "http://hfi-control-plane.boifi:8080/v1/filter/"+filterDigest+".wasm" || spec["sha256"] != filterDigest || spec["phase"] != "AUTHN" ||
		spec["failStrategy"] != "FAIL_OPEN" || config["control_plane_address"] != "hfi-control-plane.boifi:8080" ||
		spec["match"].([]any)[0].(map[string]any)["mode"] != "SERVER" {
		t.Errorf("it says %v", spec)
	}
	if s.plugin("demo", PluginName).GetLabels()[labelManagedBy] != managedBy {
		t.Error("it does not say who made it")
	}
	s.holds("namespaces without targets, or not told of, have none", func() bool {
		return s.plugin("quiet", PluginName) == nil && s.plugin("other", PluginName) == nil
	})
	s.serve("elsewhere=frontend/other")
	s.eventually("the plugin is removed", func() bool { return s.plugin("demo", PluginName) == nil })
	s.eventually("both are told", func() bool {
		events := s.events()
		return slices.Contains(events, "Created") && slices.Contains(events, "Pruned")
	})
	if events := s.events(); slices.Contains(events, "Repaired") {
		t.Errorf("the events are %v", events)
	}
}

// A Deployment scaled to nothing for a moment does not cost its namespace the
// loaded filter, as long as a policy is about it.
func TestPluginOutlivesItsPods(t *testing.T) {
	s := newStage(t, nil)
	one := podOfDeployment("demo", "frontend", "a", nil)
	s.start(one)
	s.serve("front=frontend/demo")
	s.eventually("the plugin is made", func() bool { return s.plugin("demo", PluginName) != nil })
	s.stop(one)
	s.holds("the plugin stays", func() bool { return s.plugin("demo", PluginName) != nil })
	s.serve()
	s.eventually("without a policy it goes", func() bool { return s.plugin("demo", PluginName) == nil })
}

// Nothing is removed before it is known what is served.
func TestPluginStaysWhileNothingIsKnown(t *testing.T) {
	s := newStage(t, nil, ownPlugin(t))
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.holds("the plugin stays", func() bool { return s.plugin("demo", PluginName) != nil })
	s.serve()
	s.eventually("once an empty set is served, it goes", func() bool { return s.plugin("demo", PluginName) == nil })
}

// ownPlugin is the one that hfi makes in namespace demo.
func ownPlugin(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	c := New(Clients{})
	c.SHA256 = filterDigest
	var err error
	if c.home, err = parseHome(c.ControlPlane); err != nil {
		t.Fatal(err)
	}
	own := c.desired("demo")
	own.SetGeneration(1)
	own.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-time.Hour)))
	return own
}

// Whoever changes what hfi made finds it changed back; what others add beside it stays.
func TestPluginIsRepaired(t *testing.T) {
	damaged := ownPlugin(t)
	spec := damaged.Object["spec"].(map[string]any)
	spec["failStrategy"], spec["priority"] = "FAIL_CLOSE", int64(7)
	damaged.SetAnnotations(map[string]string{"team": "shop"})
	s := newStage(t, nil, damaged)
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	s.serve("front=frontend/demo")
	s.eventually("it is repaired", func() bool {
		spec := s.plugin("demo", PluginName).Object["spec"].(map[string]any)
		return spec["failStrategy"] == "FAIL_OPEN" && spec["priority"] == nil
	})
	if s.plugin("demo", PluginName).GetAnnotations()["team"] != "shop" {
		t.Error("an annotation of others is gone")
	}
	s.eventually("it is told", func() bool { return slices.Contains(s.events(), "Repaired") })
	if err := s.objects.Tracker().Delete(pluginResource, "demo", PluginName); err != nil {
		t.Fatal(err)
	}
	s.eventually("one that was deleted is made again", func() bool { return s.plugin("demo", PluginName) != nil })
}

// Whoever undoes what hfi does is not fought; whoever applies and deletes
// policies is followed at once, each time.
func TestOnlyAFightIsSlowedDown(t *testing.T) {
	s := newStage(t, func(s *stage) { s.RepairMin = 100 * time.Millisecond })
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	made := func() bool { return s.plugin("demo", PluginName) != nil }
	for range 8 {
		s.serve("front=frontend/demo")
		s.eventually("the plugin is made", made)
		s.serve()
		s.eventually("the plugin is removed", func() bool { return !made() })
	}
	s.serve("front=frontend/demo")
	s.eventually("the plugin is made", made)
	undo := func() {
		if err := s.objects.Tracker().Delete(pluginResource, "demo", PluginName); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		undo()
		s.pass(DefaultRepairMax)
		s.eventually("it is made again", made)
	}
	undo()
	s.holds("in the end that takes a while", func() bool { return !made() })
}

// What hfi did not make it does not touch; nor does it put a second filter in front of the same pods.
func TestForeignPluginIsNotTouched(t *testing.T) {
	for _, name := range []string{PluginName, "hfi-frontend"} {
		t.Run(name, func(t *testing.T) {
			foreign := pluginObject("demo", name, nil)
			s := newStage(t, nil, foreign, pluginObject("demo", "somebody-elses", func(spec map[string]any) { delete(spec, "pluginConfig") }))
			s.start(podOfDeployment("demo", "frontend", "a", nil))
			set := s.serve("front=frontend/demo")
			s.eventually("the status says so", func() bool {
				view := s.view(set)
				return len(view.WasmPlugins) == 1 && !view.WasmPlugins[0].Managed && strings.Contains(view.WasmPlugins[0].Message, "did not make it")
			})
			s.serve()
			s.holds("its spec stays", func() bool {
				object := s.plugin("demo", name)
				return object != nil && object.Object["spec"].(map[string]any)["url"] == "oci://registry.example.com/filter:1"
			})
			for _, action := range s.objects.Actions() {
				if action.GetResource() == pluginResource && action.GetSubresource() == "" && slices.Contains([]string{"create", "update", "delete", "patch"}, action.GetVerb()) {
					t.Errorf("hfi did %s", action.GetVerb())
				}
			}
		})
	}
}

// A follower looks and does nothing; made the leader, it acts.
func TestOnlyTheLeaderActs(t *testing.T) {
	reports := make(chan *api.ClusterReport, 1000)
	s := newStage(t, func(s *stage) {
		s.leads = false
		s.Report = func(report *api.ClusterReport) {
			select {
			case reports <- report:
			default:
			}
		}
	})
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.holds("a follower makes nothing", func() bool { return s.plugin("demo", PluginName) == nil })
	if got := row(s.view(set), "front"); got.Pods != 1 {
		t.Errorf("a follower sees %+v", got)
	}
	// What the leader found by acting, a follower shows too.
	s.set(func() {
		s.report = &api.ClusterReport{MissingPermissions: []string{"create wasmplugins in namespace demo"}, Messages: map[string]string{"demo": "a message"}}
	})
	if view := s.view(set); len(view.MissingPermissions) != 1 || view.Healthy || len(view.WasmPlugins) != 1 || view.WasmPlugins[0].Message != "a message" {
		t.Errorf("a follower shows %+v", view)
	}
	if s.Told() != nil {
		t.Error("a follower tells others")
	}
	if report := <-reports; report != nil {
		t.Errorf("a follower reports %+v", report)
	}
	s.set(func() { s.leads, s.report = true, nil })
	s.eventually("the leader makes it", func() bool { return s.plugin("demo", PluginName) != nil })
	s.eventually("the leader reports to the other replicas", func() bool {
		select {
		case report := <-reports:
			return report != nil && report.Messages != nil
		default:
			return false
		}
	})
}

// While a new version of the daemon is rolled out, a sidecar may ask any
// replica for the filter: the plugin names it once all of them have it.
func TestPluginWaitsForEveryReplicaToHaveTheFilter(t *testing.T) {
	old, now := true, make(chan struct{}, 1000)
	var s *stage
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		missing := false
		s.set(func() { missing = old })
		if missing || r.URL.Path != "/v1/filter/"+filterDigest+".wasm" {
			w.WriteHeader(http.StatusNotFound)
			select {
			case now <- struct{}{}:
			default:
			}
		}
	}))
	defer replica.Close()
	s = newStage(t, func(s *stage) {
		s.Replicas = func() fleet.Replicas {
			return fleet.Replicas{List: []api.Replica{{ID: "one"}, {ID: "two", URL: replica.URL}}}
		}
	})
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	<-now
	s.eventually("the status says what it waits for", func() bool {
		view := s.view(set)
		return len(view.WasmPlugins) == 1 && strings.Contains(view.WasmPlugins[0].Message, "waiting for replica two")
	})
	if s.plugin("demo", PluginName) != nil {
		t.Error("the plugin names a filter that a replica does not have")
	}
	s.set(func() { old = false })
	s.eventually("then it is made", func() bool { return s.plugin("demo", PluginName) != nil })
}

// withoutFilter is a replica that does not serve the filter, and how often it was asked for it.
func withoutFilter(t *testing.T) (replicas func() fleet.Replicas, asked *atomic.Int64) {
	asked = &atomic.Int64{}
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(replica.Close)
	return func() fleet.Replicas {
		return fleet.Replicas{List: []api.Replica{{ID: "two", URL: replica.URL}}}
	}, asked
}

// A replica that does not answer holds up a look once, and not for each namespace.
func TestReplicasAreAskedOnceALook(t *testing.T) {
	replicas, asked := withoutFilter(t)
	s := newStage(t, func(s *stage) {
		s.Keep, s.Replicas = nil, replicas
		for i := range 40 {
			s.Keep = append(s.Keep, fmt.Sprintf("demo-%d", i))
		}
		s.Interval = time.Hour // it looks when something changes, and not else
	})
	for _, namespace := range s.Keep {
		s.start(podOfDeployment(namespace, "frontend", "a", nil))
	}
	s.eventually("the pods are seen", func() bool { return s.view(nil).Pods == len(s.Keep) })
	set := s.serve("front=frontend/*")
	s.eventually("all namespaces wait", func() bool { return len(s.view(set).WasmPlugins) == len(s.Keep) })
	if n := asked.Load(); n > int64(len(s.Keep))/2 {
		t.Errorf("it was asked %d times", n)
	}
}

// A replica that stays without the filter is not waited for for ever, and that is said once.
func TestAReplicaThatStaysWithoutTheFilterIsWarnedOfOnce(t *testing.T) {
	replicas, asked := withoutFilter(t)
	var log bytes.Buffer
	s := newStage(t, func(s *stage) {
		s.Replicas, s.Logger = replicas, slog.New(slog.NewTextHandler(&log, nil))
		s.deny("create wasmplugins") // so that it has a reason to ask again
	})
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("it waits", func() bool { return asked.Load() > 0 })
	s.pass(DefaultRolloutLimit + time.Second)
	s.eventually("it waits no longer", func() bool { return len(s.view(set).MissingPermissions) == 1 })
	before := asked.Load()
	s.eventually("it goes on asking", func() bool { return asked.Load() > before+5 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "still does not serve this filter"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
}

// Each permission that is missing is named, and everything else is done all
// the same; one that is granted later is made use of.
func TestMissingPermissionIsNamedAndTheRestIsDone(t *testing.T) {
	front := []string{"front=frontend/demo"}
	for _, c := range []struct {
		denied, named string
		// does says that the rest is done.
		does func(s *stage, view *api.KubernetesView) bool
	}{
		{"list pods", "list pods", func(s *stage, view *api.KubernetesView) bool {
			return s.plugin("demo", PluginName) != nil && s.condition("demo", PluginName, conditionLoaded).Reason == reasonPodsUnknown
		}},
		{"watch pods", "watch pods", func(s *stage, view *api.KubernetesView) bool {
			return view.Pods == 1 && s.plugin("demo", PluginName) != nil
		}},
		{"list wasmplugins", "list wasmplugins", func(s *stage, view *api.KubernetesView) bool { return row(view, "front").Pods == 1 }},
		{"create wasmplugins", "create wasmplugins in namespace demo", func(s *stage, view *api.KubernetesView) bool { return row(view, "front").Pods == 1 }},
		{"patch wasmplugins/status", "patch wasmplugins/status in namespace demo", func(s *stage, view *api.KubernetesView) bool {
			return s.plugin("demo", PluginName) != nil && len(view.WasmPlugins) == 1 && len(view.WasmPlugins[0].Conditions) == 2
		}},
		{"create events", "create events in namespace demo", func(s *stage, view *api.KubernetesView) bool {
			return s.condition("demo", PluginName, conditionLoaded).Type != ""
		}},
	} {
		t.Run(c.denied, func(t *testing.T) {
			s := newStage(t, func(s *stage) { s.deny(c.denied) })
			s.start(podOfDeployment("demo", "frontend", "a", nil))
			set := s.serve(front...)
			s.eventually("the permission is named and the rest done", func() bool {
				view := s.view(set)
				return slices.Equal(view.MissingPermissions, []string{c.named}) && !view.Healthy && c.does(s, view)
			})
			s.grant(c.denied)
			s.eventually("with the permission all is done", func() bool {
				view := s.view(set)
				return view.Healthy && len(view.MissingPermissions) == 0 && s.condition("demo", PluginName, conditionLoaded).Type != ""
			})
		})
	}
}

// What failed is a problem until it works, or is not to be done any more.
func TestAProblemDoesNotOutliveItsCause(t *testing.T) {
	filter := func(s *stage, state api.FilterState) {
		s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": state})
	}
	apply := func(s *stage) { s.serve("front=frontend/demo") }
	for _, c := range []struct {
		what, fails string
		// objects are there before; cause makes something to do, which fails, and over ends that.
		objects     []runtime.Object
		cause, over func(s *stage)
	}{
		{"an Event can be made again", "create events", nil, apply,
			func(s *stage) {
				s.set(func() { clear(s.failed) })
				s.eventually("it is made", func() bool { return slices.Contains(s.made("demo"), "Created") })
			}},
		{"an Event's namespace goes", "create events", nil, apply,
			func(s *stage) {
				s.set(func() { s.failed["create events"] = apierrors.NewNotFound(eventResource.GroupResource(), "demo") })
			}},
		{"a plugin is not to be made any more", "create wasmplugins", nil, apply, func(s *stage) { s.serve() }},
		{"a plugin is made by somebody else", "create wasmplugins", nil, apply,
			func(s *stage) {
				if err := s.objects.Tracker().Create(pluginResource, pluginObject("demo", "by-hand", nil), "demo"); err != nil {
					t.Fatal(err)
				}
			}},
		{"a status is right after all", "patch wasmplugins/status", []runtime.Object{pluginObject("demo", "by-hand", nil)},
			func(s *stage) { filter(s, api.FilterSilent) }, func(s *stage) { filter(s, api.FilterCurrent) }},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newStage(t, nil, c.objects...)
			s.start(podOfDeployment("demo", "frontend", "a", nil))
			filter(s, api.FilterCurrent)
			s.eventually("all is well", func() bool {
				return s.view(nil).Healthy && (c.objects == nil || s.condition("demo", "by-hand", conditionLoaded).Status == "True")
			})
			s.set(func() { s.failed[c.fails] = errors.New("etcdserver: request timed out") })
			c.cause(s)
			s.eventually("the status says what fails", func() bool { return strings.Contains(s.view(nil).Error, c.fails) })
			c.over(s)
			s.eventually("it is over", func() bool { return s.view(nil).Healthy })
			s.holds("it stays over", func() bool { return s.view(nil).Healthy })
		})
	}
}

// An API server that goes and comes is reported, and what was missed meanwhile is made up for.
func TestAPIServerGoesAndComes(t *testing.T) {
	s := newStage(t, nil)
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("all is done", func() bool { return s.view(set).Healthy && s.plugin("demo", PluginName) != nil })
	refused := errors.New("connect: connection refused")
	calls := []string{"list pods", "watch pods", "list wasmplugins", "watch wasmplugins", "create wasmplugins", "update wasmplugins", "delete wasmplugins", "patch wasmplugins/status"}
	s.each(calls, func(call string) { s.failed[call] = refused })
	s.serve()
	s.eventually("it says that the cluster does not answer, and does not call it a permission", func() bool {
		view := s.view(set)
		return !view.Healthy && strings.Contains(view.Error, "connection refused") && len(view.MissingPermissions) == 0
	})
	if s.plugin("demo", PluginName) == nil {
		t.Error("the plugin is gone without the API server")
	}
	if got := row(s.view(set), "front"); got.Pods != 1 {
		t.Errorf("what was seen is forgotten: %+v", got)
	}
	s.each(calls, func(call string) { delete(s.failed, call) })
	s.eventually("what policies ask for is done", func() bool { return s.view(set).Healthy && s.plugin("demo", PluginName) == nil })
}

// client-go calls a watch that nobody answers a success without events: that is seen through.
func TestAPIServerThatHangsIsReported(t *testing.T) {
	s := newStage(t, func(s *stage) { s.failed["watch pods"] = errEmptyWatch })
	s.start(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("the status says so", func() bool {
		return strings.Contains(s.view(set).Error, "watch pods: the API server does not answer")
	})
	s.set(func() { delete(s.failed, "watch pods") })
	s.eventually("it is well again", func() bool { return s.view(set).Healthy })
}
