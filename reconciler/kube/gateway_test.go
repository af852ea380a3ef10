package kube

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/internal/api"
)

// ingressPod is a pod of a gateway that Istio's chart installed.
func ingressPod(namespace, gateway, suffix string) *metav1.PartialObjectMetadata {
	pod := podOfDeployment(namespace, gateway, suffix, map[string]string{"istio": strings.TrimPrefix(gateway, "istio-")})
	pod.Annotations[annotationTemplates] = "gateway"
	return pod
}

// gatewayPod is a pod of a Gateway of Kubernetes's Gateway API, which istiod deploys without injection.
func gatewayPod(namespace, gateway, class, suffix string) *metav1.PartialObjectMetadata {
	pod := podOfDeployment(namespace, gateway+"-"+class, suffix, map[string]string{labelGateway: gateway, "gateway.networking.k8s.io/gateway-class-name": class})
	switch class {
	case "istio":
		pod.Labels[labelManagedGateway] = managedGateway
	case "istio-waypoint":
		pod.Labels[labelManagedGateway] = managedWaypoint
	case "istio-east-west":
		pod.Labels[labelManagedGateway] = managedEastWest
	default:
		pod.Labels[labelManagedGateway] = class + "-controller"
	}
	pod.Annotations = map[string]string{annotationRevision: "default"}
	return pod
}

// Pods are gateways by what Istio's charts and its controller write, and by nothing else.
func TestGatewayName(t *testing.T) {
	named := func(pod *metav1.PartialObjectMetadata, change func(*metav1.PartialObjectMetadata)) *metav1.PartialObjectMetadata {
		change(pod)
		return pod
	}
	sidecar := func() *metav1.PartialObjectMetadata { return podOfDeployment("demo", "in", "a", nil) }
	for what, c := range map[string]struct {
		pod  *metav1.PartialObjectMetadata
		want string
	}{
		"the chart's":                 {ingressPod("demo", "istio-in", "a"), "istio-in"},
		"a Gateway's":                 {gatewayPod("demo", "in", "istio", "a"), "in"},
		"a waypoint's":                {gatewayPod("demo", "in", "istio-waypoint", "a"), ""},
		"agentgateway's":              {gatewayPod("demo", "in", "istio.io-agentgateway", "a"), ""},
		"an east-west gateway's":      {gatewayPod("demo", "east", "istio-east-west", "a"), ""},
		"a classic east-west gateway": {named(ingressPod("demo", "istio-east", "a"), func(p *metav1.PartialObjectMetadata) { p.Labels[labelIstio] = eastWest }), "istio-east"},
		"of another controller": {named(sidecar(), func(p *metav1.PartialObjectMetadata) {
			p.Labels[labelGateway], p.Labels["gateway.networking.k8s.io/gateway-class-name"] = "in", "nginx"
		}), ""},
		"a Gateway's of a chart": {named(ingressPod("demo", "istio-in", "a"), func(p *metav1.PartialObjectMetadata) { p.Labels[labelGateway] = "in" }), "in"},
		"a sidecar's":            {sidecar(), ""},
		"the older chart's":      {named(sidecar(), func(p *metav1.PartialObjectMetadata) { p.Labels[labelComponent] = "IngressGateways" }), "in"},
		"of several injected":    {named(sidecar(), func(p *metav1.PartialObjectMetadata) { p.Annotations[annotationTemplates] = "spire, gateway" }), "in"},
		"of another template":    {named(sidecar(), func(p *metav1.PartialObjectMetadata) { p.Annotations[annotationTemplates] = "gateways,sidecar" }), ""},
		"of another component":   {named(sidecar(), func(p *metav1.PartialObjectMetadata) { p.Labels[labelComponent] = "Pilot" }), ""},
		"without a workload":     {named(ingressPod("demo", "in", "a"), func(p *metav1.PartialObjectMetadata) { p.OwnerReferences = nil }), "*"},
	} {
		got, is := gatewayName(&c.pod.ObjectMeta)
		if is != (c.want != "") || is && got != c.want {
			t.Errorf("%s: %q, %t, want %q", what, got, is, c.want)
		}
	}
}

// Proxies that pass on what is encrypted belong to no workload, so that policies for all
// workloads do not count them as pods without a sidecar.
func TestEastWestGatewaysAreNoWorkloads(t *testing.T) {
	s := newFixture(t, nil)
	classic := podOfDeployment("demo", "istio-eastwestgateway", "b", map[string]string{labelIstio: eastWest})
	classic.Annotations = nil
	pods := []*metav1.PartialObjectMetadata{gatewayPod("demo", "east", "istio-east-west", "a"), classic, gatewayPod("demo", "agent", "istio.io-agentgateway", "c")}
	s.addPods(pods...)
	s.addPods(podOfDeployment("demo", "frontend", "d", nil))
	set := s.serve("p=*/demo")
	s.eventually("the workload's pod is known", func() bool { return s.view(set).Pods == 1 })
	s.consistently("only that counts", func() bool {
		row := s.view(set).Policies[0]
		return s.view(set).Pods == 1 && s.view(set).Workloads == 1 && row.Pods == 1 && row.WithoutSidecar == 0
	})
	exist, _ := s.Exist()
	for _, pod := range pods {
		if !exist("demo", pod.Name) {
			t.Errorf("pod %s does not exist", pod.Name)
		}
	}
	for _, pod := range pods {
		s.deletePod(pod)
	}
	s.eventually("they can be deleted", func() bool { exist, _ := s.Exist(); return !exist("demo", pods[2].Name) })
}

// A gateway that a policy targets has a plugin of its own, which selects nothing else. Policies for
// workloads have none in gateways, and those for gateways none in workloads.
func TestGatewaysHavePluginsOfTheirOwn(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Minute })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), ingressPod("demo", "istio-in", "b"), ingressPod("demo", "istio-out", "c"), gatewayPod("demo", "shop", "istio", "d"),
		gatewayPod("demo", "way", "istio-waypoint", "e"))
	set := s.serve("in=gateway:istio-in/demo")
	s.eventually("the gateway has its plugin", func() bool { return s.selector("hfi.gateway-istio-in")["app"] == "istio-in" })
	spec := s.plugin("demo", "hfi.gateway-istio-in").Object["spec"].(map[string]any)
	if mode, _, _ := unstructured.NestedSlice(spec, "match"); len(mode) != 1 || mode[0].(map[string]any)["mode"] != "CLIENT" {
		t.Errorf("the plugin is %v", spec)
	}
	if direction, _, _ := unstructured.NestedString(spec, "pluginConfig", "direction"); direction != "gateway" {
		t.Errorf("its filter has the direction %q, so it could inject in workloads", direction)
	}
	s.consistently("nothing else has one", func() bool { return s.countPlugins() == 1 })
	s.eventually("the pods are known", func() bool { return s.view(set).Pods == 4 && s.view(set).Workloads == 5 })

	// A policy for every gateway is no reason for a plugin for all pods.
	set = s.serve("all=gateway:*/demo")
	s.eventually("each gateway has its own", func() bool { return s.countPlugins() == 3 })
	references, _, _ := unstructured.NestedSlice(s.plugin("demo", "hfi.gateway-shop").Object, "spec", "targetRefs")
	if _, selects := s.plugin("demo", "hfi.gateway-shop").Object["spec"].(map[string]any)["selector"]; selects || len(references) != 1 ||
		!maps.Equal(references[0].(map[string]any), map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "shop"}) {
		t.Errorf("the plugin of a Gateway is %v", s.plugin("demo", "hfi.gateway-shop").Object["spec"])
	}
	row := s.view(set).Policies[0]
	if row.Pods != 3 || row.WithoutFilterCount != 3 || row.WithoutFilter[0].Reason != "no contact from its filter" {
		t.Errorf("the policy has %+v", row)
	}

	// A policy for all workloads has one for all pods, which is for no gateway.
	set = s.serve("everything=*/*")
	s.eventually("the workloads have theirs", func() bool { return s.plugin("demo", PluginName) != nil })
	if row := s.view(set).Policies[0]; row.Pods != 1 {
		t.Errorf("the policy has %+v", row)
	}
	s.consistently("those of the gateways linger", func() bool { return s.countPlugins() == 4 })
	s.advance(time.Minute)
	s.eventually("then they are deleted", func() bool { return s.countPlugins() == 1 })
}

func (s *fixture) countPlugins() int {
	s.t.Helper()
	count := 0
	for _, name := range []string{PluginName, frontPlugin, "hfi-istio-in", "hfi-istio-out", "hfi.outbound", "hfi.gateway", "hfi.gateway-istio-in", "hfi.gateway-istio-out", "hfi.gateway-shop", "hfi.gateway-frontend"} {
		if s.plugin("demo", name) != nil {
			count++
		}
	}
	return count
}

// The status of a gateway's plugin is that of its pods, by their filters, and a plugin for workloads
// waits for none in gateways.
func TestStatusOfGateways(t *testing.T) {
	s := newFixture(t, nil)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), ingressPod("demo", "istio-in", "b"), gatewayPod("demo", "shop", "istio", "c"))
	set := s.serve("all=gateway:*/demo", "everything=*/demo")
	s.eventually("all have plugins", func() bool { return s.countPlugins() == 3 })
	filter := func(pod, service, gateway string) api.FilterStatus {
		return api.FilterStatus{FilterID: api.FilterID{Pod: pod, Service: service, Namespace: "demo", Gateway: gateway}, State: api.FilterCurrent}
	}
	s.set(func() {
		s.fleet.Items = []api.FilterStatus{filter("frontend-abc12-a", "frontend", ""), filter("istio-in-abc12-b", "", "istio-in"), filter("shop-istio-abc12-c", "shop-istio", "")}
	})
	loaded := func(name string) string {
		plugin := s.plugin("demo", name)
		conditions, _, _ := unstructured.NestedSlice(plugin.Object, "status", "conditions")
		for _, each := range conditions {
			if condition := each.(map[string]any); condition["type"] == conditionLoaded {
				return condition["message"].(string)
			}
		}
		return ""
	}
	s.eventually("each plugin counts its own pods", func() bool {
		return loaded(PluginName) == "loaded on 1 of 1 pods" && loaded("hfi.gateway-istio-in") == "loaded on 1 of 1 pods" && loaded("hfi.gateway-shop") == "loaded on 1 of 1 pods"
	})
	rows := s.view(set).Policies
	row := rows[slices.IndexFunc(rows, func(row api.PolicyPods) bool { return row.Name == "all" })]
	const reason = `its filter says that it is gateway "", and by its labels it is "shop"`
	if row.Current != 1 || row.WithoutFilterCount != 1 || row.WithoutFilter[0].Reason != reason {
		t.Errorf("the policy has %+v", row)
	}
	for policy, want := range map[string]string{
		"in=gateway:nobody/demo": "it targets nothing: there is no pod of gateway nobody in namespace demo",
		"in=gateway:istio-in/*":  "",
	} {
		set := s.serve(policy)
		if got := s.view(set).Policies[0].Warning; got != want {
			t.Errorf("%s: the warning is %q, want %q", policy, got, want)
		}
	}
}

// A plugin of somebody else's that gateways use stands in for hfi's; one for requests that workloads
// receive does not.
func TestForeignPluginsInGateways(t *testing.T) {
	byHand := func(change func(map[string]any)) *fixture {
		s := newFixture(t, nil, pluginObject("demo", "by-hand", change))
		s.addPods(ingressPod("demo", "istio-in", "a"), gatewayPod("demo", "shop", "istio", "b"))
		s.serve("all=gateway:*/demo")
		return s
	}
	s := byHand(nil)
	s.consistently("a plugin for all requests stands in for both", func() bool { return s.countPlugins() == 0 })
	s = byHand(func(spec map[string]any) {
		spec["targetRefs"] = []any{map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "shop"}}
	})
	s.eventually("one for a Gateway stands in for that", func() bool { return s.plugin("demo", "hfi.gateway-istio-in") != nil })
	s.consistently("and for no other", func() bool { return s.countPlugins() == 1 })
	s = byHand(func(spec map[string]any) { spec["match"] = []any{map[string]any{"mode": "SERVER"}} })
	s.eventually("one for inbound requests stands in for none", func() bool { return s.countPlugins() == 2 })
}

// While the pods of a namespace cannot be listed, hfi creates no plugin for gateways.
func TestNoPluginForUnknownGateways(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.deny("list pods", "watch pods") })
	s.serve("all=gateway:*/demo")
	s.consistently("there is none", func() bool { return s.countPlugins() == 0 })
}

// A gateway's plugin is for what it sends, so none stays that selects pods of workloads, too.
func TestNoPluginOfAGatewaySelectsWorkloads(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Hour })
	gateway := ingressPod("demo", "istio-in", "a")
	gateway.Labels = map[string]string{labelTemplateHash: "abc12", "app": "shop"}
	s.addPods(gateway)
	set := s.serve("edge=gateway:istio-in/demo")
	s.eventually("the gateway has its plugin", func() bool { return s.selector("hfi.gateway-istio-in")["app"] == "shop" })
	workload := podOfDeployment("demo", "web", "b", nil)
	workload.Labels = map[string]string{labelTemplateHash: "abc12", "app": "shop", "tier": "web"}
	s.addPods(workload)
	s.eventually("it is deleted", func() bool { return s.countPlugins() == 0 })
	s.eventually("the status says why", func() bool {
		rows := s.view(set).WasmPlugins
		return len(rows) == 1 && strings.Contains(rows[0].Message, "has no labels that tell it from others, so hfi creates none for it")
	})
	s.deletePod(workload)
	s.eventually("alone, it has its plugin again", func() bool { return s.countPlugins() == 1 })

	// Nor does one that only lingers.
	s.serve()
	s.addPods(workload)
	s.eventually("it is deleted", func() bool { return s.countPlugins() == 0 })
}

// Only the plugin of a gateway refers to a Gateway: one for workloads is for their pods, of which
// another controller's gateway may be one.
func TestNoPluginForWorkloadsTargetsAGateway(t *testing.T) {
	s := newFixture(t, nil)
	edge := podOfDeployment("demo", "frontend", "a", nil)
	edge.Labels = map[string]string{labelTemplateHash: "abc12", labelGateway: "edge"}
	s.addPods(edge, podOfDeployment("demo", "cart", "b", nil))
	s.serve("p=frontend/demo")
	s.eventually("the workload has its plugin", func() bool { return s.plugin("demo", frontPlugin) != nil })
	spec := s.plugin("demo", frontPlugin).Object["spec"].(map[string]any)
	if _, refers := spec["targetRefs"]; refers || spec["selector"] == nil {
		t.Errorf("the plugin is %v", spec)
	}
}

// A filter for what workloads send runs in the gateways that its plugin selects, too, and asks for their
// policies. It executes none of them.
func TestOutboundFilterIsNoneOfAGateway(t *testing.T) {
	for what, change := range map[string]func(map[string]any){
		"for all pods": func(map[string]any) {},
		"for the Gateway": func(spec map[string]any) {
			spec["targetRefs"] = []any{map[string]any{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "shop"}}
		},
	} {
		s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
			spec["match"] = []any{map[string]any{"mode": "CLIENT"}}
			spec["pluginConfig"].(map[string]any)["direction"] = "outbound"
			change(spec)
		}))
		s.addPods(gatewayPod("demo", "shop", "istio", "b"))
		set := s.serve("edge=gateway:shop/demo")
		s.set(func() {
			s.fleet.Items = []api.FilterStatus{{FilterID: api.FilterID{Pod: "shop-istio-abc12-b", Namespace: "demo", Gateway: "shop"}, State: api.FilterCurrent, Directions: []string{"outbound"}}}
		})
		s.eventually(what+": hfi's own plugin exists", func() bool { return s.plugin("demo", "hfi.gateway-shop") != nil })
		s.eventually(what+": the pod has no filter", func() bool {
			row := s.view(set).Policies[0]
			return row.WithoutFilterCount == 1 && row.WithoutFilter[0].Reason == "no contact from a filter for gateway requests"
		})
	}
}

// Envoys that are no pods of Istio's have the filter by hand. Policies for them target something.
func TestNoWarningForConnectedFiltersWithoutAPod(t *testing.T) {
	s := newFixture(t, nil)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	s.set(func() {
		s.fleet.Items = []api.FilterStatus{
			{FilterID: api.FilterID{Node: "a", Namespace: "infra", Gateway: "edge"}, State: api.FilterCurrent},
			{FilterID: api.FilterID{Node: "b", Namespace: "infra", Service: "vm"}, State: api.FilterBehind},
			{FilterID: api.FilterID{Node: "c", Namespace: "gone", Service: "vm"}, State: api.FilterSilent},
		}
	})
	for policy, want := range map[string]string{
		"p=gateway:edge/infra": "", "p=gateway:*/infra": "", "p=gateway:edge/*": "", "p=vm/infra": "", "p=*/infra": "",
		"p=gateway:vm/infra": "it targets nothing: there is no pod of gateway vm in namespace infra",
		"p=edge/infra":       "it targets nothing: there is no pod of service edge in namespace infra",
		"p=vm/gone":          "it targets nothing: there is no pod of service vm in namespace gone",
	} {
		set := s.serve(policy)
		s.eventually(policy, func() bool {
			rows := s.view(set).Policies
			return len(rows) == 1 && rows[0].Warning == want
		})
	}
}
