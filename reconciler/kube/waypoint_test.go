package kube

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	networking "istio.io/api/networking/v1alpha3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// ambientPod is a pod of a workload of Istio's ambient mode, which has no sidecar.
func ambientPod(namespace, workload, suffix string) *metav1.PartialObjectMetadata {
	pod := podOfDeployment(namespace, workload, suffix, nil)
	pod.Annotations = map[string]string{"ambient.istio.io/redirection": "enabled"}
	return pod
}

// named returns the metadata of a Service or, without a namespace, of a namespace.
func named(namespace, name string, labels ...string) *metav1.PartialObjectMetadata {
	kind := "Service"
	if namespace == "" {
		kind = "Namespace"
	}
	object := &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: kind}, ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	for _, each := range labels {
		label, value, _ := strings.Cut(each, "=")
		metav1.SetMetaDataLabel(&object.ObjectMeta, label, value)
	}
	return object
}

func resourceOf(object *metav1.PartialObjectMetadata) kubeschema.GroupVersionResource {
	if object.Kind == "Namespace" {
		return namespaceResource
	}
	return serviceResource
}

// put creates or updates Services and namespaces.
func (s *fixture) put(objects ...*metav1.PartialObjectMetadata) {
	s.t.Helper()
	for _, object := range objects {
		err := s.pods.Tracker().Update(resourceOf(object), object, object.Namespace)
		if err != nil {
			err = s.pods.Tracker().Create(resourceOf(object), object, object.Namespace)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// pluginNames are those of the plugins of a namespace that begin with hfi.waypoint.
func (s *fixture) waypointPlugins(namespace string) (names []string) {
	s.t.Helper()
	list, err := s.objects.Resource(s.delivery().resource).Namespace(namespace).List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range list.Items {
		if name := list.Items[i].GetName(); strings.HasPrefix(name, waypoints.name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// row is what the status says of the only policy, or empty.
func (s *fixture) row(set *schema.Set) api.PolicyPods {
	for _, row := range s.view(set).Policies {
		return row
	}
	return api.PolicyPods{WithoutFilter: make([]api.PodProblem, 1)}
}

func (s *fixture) eventuallyWaypoints(what, namespace string, want ...string) {
	s.t.Helper()
	s.eventually(what, func() bool { return slices.Equal(s.waypointPlugins(namespace), want) })
}

// A waypoint has a plugin of its own while a policy selects a Service that uses it, by its own
// label or its namespace's.
func TestWaypointsHavePluginsOfTheirOwn(t *testing.T) {
	const useWay, useOther = labelUseWaypoint + "=way", labelUseWaypoint + "=other"
	s := newFixture(t, nil)
	s.put(named("", "demo", useWay), named("demo", "cart"), named("demo", "pay", useOther), named("demo", "bare", labelUseWaypoint+"=none"), named("demo", "way", labelManagedGateway+"="+managedWaypoint), named("demo", "east", labelManagedGateway+"="+managedEastWest, useWay),
		named("demo", "edge", labelManagedGateway+"="+managedGateway))
	s.addPods(ambientPod("demo", "cart", "a"), gatewayPod("demo", "way", "istio-waypoint", "b"), gatewayPod("demo", "other", "istio-waypoint", "c"))
	s.serve("p=cart/demo")
	s.eventuallyWaypoints("the namespace's waypoint has its plugin", "demo", "hfi.waypoint-way")
	spec := s.plugin("demo", "hfi.waypoint-way").Object["spec"].(map[string]any)
	references, _, _ := unstructured.NestedSlice(spec, "targetRefs")
	modes, _, _ := unstructured.NestedSlice(spec, "match")
	config, _, _ := unstructured.NestedMap(spec, "pluginConfig")
	if _, selects := spec["selector"]; selects || len(references) != 1 || !maps.Equal(references[0].(map[string]any), map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "way"}) ||
		len(modes) != 1 || modes[0].(map[string]any)["mode"] != "SERVER" || len(config) != 1 || config["control_plane_address"] == nil {
		t.Errorf("the plugin is %v", spec)
	}
	s.serve("p=pay/*")
	s.eventuallyWaypoints("the other replaces it", "demo", "hfi.waypoint-other")

	for _, policy := range []string{"p=bare/demo", "p=way/demo", "p=east/demo", "p=gone/demo", "p=cart/demo outbound", "p=gateway:*/demo", "p=*/elsewhere"} {
		s.serve(policy)
		s.eventuallyWaypoints("none is for "+policy, "demo")
	}
	s.serve("p=edge/demo")
	s.eventuallyWaypoints("the Service of a gateway is one as any other", "demo", "hfi.waypoint-way")
	s.serve("p=*/demo")
	s.eventuallyWaypoints("a policy for all services needs both", "demo", "hfi.waypoint-other", "hfi.waypoint-way")
	if s.plugin("demo", waypoints.name) != nil {
		t.Error("there is a plugin for all waypoints")
	}

	// The labels decide, and a Service that is gone uses nothing.
	s.serve("p=cart/demo")
	s.eventuallyWaypoints("only one is needed", "demo", "hfi.waypoint-way")
	s.put(named("", "demo", useOther))
	s.eventuallyWaypoints("the namespace's label changed", "demo", "hfi.waypoint-other")
	s.put(named("demo", "cart", useWay))
	s.eventuallyWaypoints("the Service's own overrides it", "demo", "hfi.waypoint-way")
	if err := s.pods.Tracker().Delete(serviceResource, "demo", "cart"); err != nil {
		t.Fatal(err)
	}
	s.eventuallyWaypoints("the Service is gone", "demo")
}

// The plugin of a waypoint stays for a while after its last policy.
func TestPluginsOfWaypointsLinger(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Minute })
	s.put(named("demo", "cart", labelUseWaypoint+"=way"))
	s.addPods(gatewayPod("demo", "way", "istio-waypoint", "a"))
	s.serve("p=cart/demo")
	s.eventuallyWaypoints("it exists", "demo", "hfi.waypoint-way")
	s.serve()
	s.consistently("it lingers", func() bool { return len(s.waypointPlugins("demo")) == 1 })
	s.advance(time.Minute)
	s.eventuallyWaypoints("then it is deleted", "demo")
}

// The waypoint of a Service may be in another namespace. There, only policies for any namespace
// apply to it.
func TestWaypointsOfOtherNamespaces(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Keep = []string{"demo", "infra"} })
	s.put(named("demo", "cart", labelUseWaypoint+"=shared", labelUseWaypointNamespace+"=infra"))
	s.addPods(ambientPod("demo", "cart", "a"), gatewayPod("infra", "shared", "istio-waypoint", "b"))
	set := s.serve("p=cart/*")
	s.eventuallyWaypoints("its namespace has the plugin", "infra", "hfi.waypoint-shared")
	s.eventually("its pod is awaited", func() bool { return s.view(set).AwaitedPodsCount == 1 })
	set = s.serve("p=cart/demo")
	s.eventuallyWaypoints("no policy of the Service's own namespace needs it", "infra")
	const want = "none of the pods that it targets has a sidecar, and in waypoint shared of namespace infra only policies for services of that namespace or of any namespace apply"
	s.eventually("the status says so", func() bool { return s.row(set).Warning == want })
}

// A policy for a service of ambient mode is about the waypoint's pods too: their filters make it
// current, and are waited for.
func TestStatusOfWaypoints(t *testing.T) {
	s := newFixture(t, nil)
	s.put(named("demo", "cart", labelUseWaypoint+"=way"), named("demo", "alias", labelUseWaypoint+"=way"))
	s.addPods(ambientPod("demo", "cart", "a"))
	set := s.serve("p=cart/demo")
	row := func() api.PolicyPods { return s.row(set) }
	s.eventually("no waypoint, no sidecar", func() bool { return row().Warning == "none of the pods that it targets has a sidecar" })
	s.addPods(gatewayPod("demo", "way", "istio-waypoint", "b"))
	s.eventually("the waypoint's pod is awaited", func() bool {
		view := s.view(set)
		return row().Warning == "" && row().Pods == 2 && row().WithoutSidecar == 1 && view.AwaitedPodsCount == 1 && view.AwaitedPods[0].Pod == "way-istio-waypoint-abc12-b"
	})
	s.eventually("the reason is its own", func() bool {
		return strings.HasPrefix(row().WithoutFilter[0].Reason, "no contact from its filter: a waypoint has an Envoy cluster for the control plane only if")
	})
	report := func(waypoint string, state api.FilterState) {
		s.set(func() {
			s.fleet.Items = []api.FilterStatus{{FilterID: api.FilterID{Pod: "way-istio-waypoint-abc12-b", Namespace: "demo", Waypoint: waypoint}, State: state}}
		})
	}
	report("way", api.FilterCurrent)
	s.eventually("it counts", func() bool { return row().Current == 1 && s.view(set).AwaitedPodsCount == 0 })
	s.eventually("the plugin is loaded", func() bool {
		return s.condition("demo", "hfi.waypoint-way", conditionLoaded).Message == "loaded on 1 of 1 pods"
	})
	report("another", api.FilterCurrent)
	s.eventually("that of another does not", func() bool {
		return row().WithoutFilterCount == 1 && row().WithoutFilter[0].Reason == `its filter says that it is waypoint "another", and by its labels it is "way"`
	})
	report("way", api.FilterBehind)
	s.eventually("it is behind", func() bool { return row().Behind == 1 })
	// A Service need not have the name of a workload.
	set = s.serve("p=alias/demo")
	s.eventually("the policy targets the waypoint", func() bool { return row().Warning == "" && row().Pods == 1 && row().Behind == 1 })
	// Nor does the plugin for a workload count the waypoint's pods.
	set = s.serve("p=*/demo")
	s.eventually("all pods have a plugin", func() bool { return s.plugin("demo", PluginName) != nil })
	s.eventually("it applies to none with a sidecar", func() bool { return s.condition("demo", PluginName, conditionLoaded).Reason == reasonNoPods })
}

// A waypoint without pods faults nothing.
func TestWaypointWithoutPods(t *testing.T) {
	s := newFixture(t, nil)
	s.put(named("demo", "cart", labelUseWaypoint+"=way"))
	s.addPods(ambientPod("demo", "cart", "a"), gatewayPod("demo", "other", "istio-waypoint", "b"))
	set := s.serve("p=cart/demo")
	s.eventually("the status says so", func() bool {
		return s.row(set).Warning == "none of the pods that it targets has a sidecar, and waypoint way of namespace demo has no pods"
	})
	s.consistently("there is no plugin", func() bool { return len(s.waypointPlugins("demo")) == 0 })
	way := gatewayPod("demo", "way", "istio-waypoint", "c")
	s.addPods(way)
	s.eventuallyWaypoints("with pods there is", "demo", "hfi.waypoint-way")
	s.deletePod(way)
	s.consistently("it stays for the next pod", func() bool { return len(s.waypointPlugins("demo")) == 1 })
}

// While Services or namespaces cannot be listed, plugins of waypoints are neither created nor deleted.
func TestWaypointsOfUnknownServices(t *testing.T) {
	for _, denied := range []string{"services", "namespaces"} {
		existing := pluginObject("demo", "hfi.waypoint-old", func(spec map[string]any) { spec["targetRefs"] = targetRefs("old") })
		existing.SetLabels(map[string]string{labelManagedBy: managedBy})
		s := newFixture(t, func(s *fixture) { s.deny("list "+denied, "watch "+denied) }, existing)
		s.put(named("demo", "cart", labelUseWaypoint+"=way"))
		s.addPods(ambientPod("demo", "cart", "a"))
		set := s.serve("p=cart/demo")
		s.eventually("the cluster answers", func() bool { return s.view(set).Healthy })
		s.consistently("without waypoints there is no need", func() bool { return s.view(set).Healthy })
		s.addPods(gatewayPod("demo", "way", "istio-waypoint", "b"))
		s.eventually("the right is missed", func() bool { return slices.Contains(s.view(set).MissingPermissions, "list "+denied) })
		s.consistently("nothing changes", func() bool { return slices.Equal(s.waypointPlugins("demo"), []string{"hfi.waypoint-old"}) })
		s.grant("list "+denied, "watch "+denied)
		s.eventuallyWaypoints("once granted, all is as it should be", "demo", "hfi.waypoint-way")
	}
}

// A plugin of somebody else's for the waypoint's Gateway stands in for hfi's, unless it is for other
// requests. One without a reference to the Gateway does not run there.
func TestForeignPluginsInWaypoints(t *testing.T) {
	reference := targetRefs("way")
	for what, c := range map[string]struct {
		namespace string
		change    func(map[string]any)
		alone     bool
	}{
		"for all requests": {"demo", func(spec map[string]any) { spec["targetRefs"] = reference }, true},
		"for outbound ones": {"demo", func(spec map[string]any) {
			spec["targetRefs"], spec["match"] = reference, []any{map[string]any{"mode": "CLIENT"}}
		}, false},
		"for a gateway": {"demo", func(spec map[string]any) {
			spec["targetRefs"] = reference
			spec["pluginConfig"].(map[string]any)["direction"] = "gateway"
		}, false},
		"for all pods": {"demo", func(map[string]any) {}, false},
		"by labels": {"demo", func(spec map[string]any) {
			spec["selector"] = map[string]any{"matchLabels": map[string]any{labelGateway: "way"}}
		}, false},
		"in the root namespace": {DefaultRootNamespace, func(spec map[string]any) { spec["targetRefs"] = reference }, false},
	} {
		s := newFixture(t, nil, pluginObject(c.namespace, "by-hand", c.change))
		s.put(named("demo", "cart", labelUseWaypoint+"=way"))
		s.addPods(gatewayPod("demo", "way", "istio-waypoint", "b"))
		s.serve("p=cart/demo")
		if !c.alone {
			s.eventuallyWaypoints(what, "demo", "hfi.waypoint-way")
			continue
		}
		s.consistently(what, func() bool { return len(s.waypointPlugins("demo")) == 0 })
	}
}

// In a waypoint the EnvoyFilter adds the filter where requests to services pass, which is not where
// tunnels end, and the cluster of the control plane, which no waypoint has.
func TestEnvoyFilterOfAWaypoint(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Delivery = DeliverByEnvoyFilter })
	s.put(named("demo", "cart", labelUseWaypoint+"=way"))
	s.addPods(gatewayPod("demo", "way", "istio-waypoint", "b"))
	s.serve("p=cart/demo")
	s.eventuallyWaypoints("it is created", "demo", "hfi.waypoint-way")
	var filter networking.EnvoyFilter
	decodeSpec(t, s.desired(waypoints, "demo", "hfi.waypoint-way", map[string]string{labelGateway: "way"}), &filter)
	if filter.WorkloadSelector != nil || len(filter.TargetRefs) != 1 || filter.TargetRefs[0].Name != "way" || len(filter.ConfigPatches) != 3 {
		t.Fatalf("the EnvoyFilter is %v", &filter)
	}
	if inserted := filter.ConfigPatches[0]; inserted.Match.Context != networking.EnvoyFilter_SIDECAR_INBOUND || inserted.Match.GetListener().Name != "main_internal" {
		t.Errorf("the filter is added at %v", inserted.Match)
	}
	added := filter.ConfigPatches[2]
	if added.ApplyTo != networking.EnvoyFilter_CLUSTER || added.Match.Context != networking.EnvoyFilter_SIDECAR_INBOUND || added.Patch.Operation != networking.EnvoyFilter_Patch_ADD ||
		added.Patch.Value.Fields["name"].GetStringValue() != "hfi-control-plane.boifi:8080" {
		t.Errorf("the cluster is added by %v", added)
	}
	object, err := s.objects.Resource(envoyFilters.resource).Namespace("demo").Get(t.Context(), "hfi.waypoint-way", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if read := readPlugin(envoyFilters, object, s.baseURL); read == nil || !read.isOf(waypoints) || read.isOf(inbound) || !maps.Equal(read.selector, map[string]string{labelGateway: "way"}) {
		t.Errorf("it is read as %+v", read)
	}
	object.SetName("by-hand")
	object.SetLabels(nil)
	if read := readPlugin(envoyFilters, object, s.baseURL); read == nil || !read.isOf(waypoints) || read.isOf(gateways) || read.direction != schema.Inbound && read.direction != "" {
		t.Errorf("one like it, by hand, is read as %+v", read)
	}
}
