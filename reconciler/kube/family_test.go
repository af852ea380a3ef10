package kube

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/boifi/hfi/internal/api"
)

// outboundPlugin is the plugin for the outbound requests of the workload frontend.
const outboundPlugin = "hfi.outbound-frontend"

// Only a workload that an outbound policy targets has a plugin for the requests that it sends, beside
// the one for those that it receives. Each comes, lingers and goes by itself.
func TestOutboundPoliciesHavePluginsOfTheirOwn(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Linger = time.Minute })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	s.serve("out=frontend/demo outbound", "in=cart/demo")
	s.eventually("each workload has the plugin of its policy", func() bool { return s.plugin("demo", outboundPlugin) != nil && s.plugin("demo", "hfi-cart") != nil })
	s.consistently("nothing else has", func() bool {
		return s.plugin("demo", frontPlugin) == nil && s.plugin("demo", "hfi.outbound-cart") == nil
	})
	spec := s.plugin("demo", outboundPlugin).Object["spec"].(map[string]any)
	mode, _, _ := unstructured.NestedSlice(spec, "match")
	direction, _, _ := unstructured.NestedString(spec, "pluginConfig", "direction")
	if mode[0].(map[string]any)["mode"] != "CLIENT" || direction != "outbound" || s.selector(outboundPlugin)["app"] != "frontend" {
		t.Errorf("the plugin is %v", spec)
	}

	s.serve("out=*/demo outbound", "in=cart/demo")
	s.eventually("one plugin for all replaces it", func() bool { return s.plugin("demo", "hfi.outbound") != nil && s.plugin("demo", outboundPlugin) == nil })
	s.consistently("the other family has none", func() bool { return s.plugin("demo", PluginName) == nil && s.plugin("demo", "hfi-cart") != nil })

	s.serve("in=cart/demo")
	s.consistently("it lingers", func() bool { return s.plugin("demo", "hfi.outbound") != nil })
	s.advance(time.Minute)
	s.eventually("then it is deleted, alone", func() bool { return s.plugin("demo", "hfi.outbound") == nil && s.plugin("demo", "hfi-cart") != nil })
}

// A plugin of somebody else's counts for the direction of its setting alone, and a name that is taken
// for the family that may want it.
func TestForeignPluginsAreOfOneDirection(t *testing.T) {
	outward := func(spec map[string]any) { spec["pluginConfig"].(map[string]any)["direction"] = "outbound" }
	s := newFixture(t, nil, pluginObject("demo", "by-hand", nil), pluginObject("demo", "hfi-cart", outward))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	s.serve("out=frontend/demo outbound")
	s.consistently("an outbound plugin for all stands in", func() bool { return s.plugin("demo", outboundPlugin) == nil })

	s = newFixture(t, nil, pluginObject("demo", "by-hand", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("out=frontend/demo outbound", "in=frontend/demo")
	s.eventually("an inbound one does not", func() bool { return s.plugin("demo", outboundPlugin) != nil })
	s.consistently("it does for inbound policies", func() bool { return s.plugin("demo", frontPlugin) == nil })
	if rows := s.view(set).WasmPlugins; len(rows) != 2 || !strings.Contains(rows[0].Message, "by-hand refers to this control plane too") {
		t.Errorf("the status lists %+v", rows)
	}
}

// A plugin of somebody else's whose direction is not known stands in for none of hfi's: its filters inject
// nothing. hfi reports on it and says why.
func TestForeignPluginsOfUnknownDirection(t *testing.T) {
	for _, direction := range []string{"Outbound", "egress"} {
		astray := func(spec map[string]any) { spec["pluginConfig"].(map[string]any)["direction"] = direction }
		s := newFixture(t, nil, pluginObject("demo", "by-hand", astray))
		s.addPods(podOfDeployment("demo", "frontend", "a", nil), ingressPod("demo", "istio-in", "b"))
		set := s.serve("out=frontend/demo outbound", "in=frontend/demo", "edge=gateway:istio-in/demo")
		s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterUnable})
		s.eventually("hfi's own plugins exist", func() bool {
			return s.plugin("demo", outboundPlugin) != nil && s.plugin("demo", frontPlugin) != nil && s.plugin("demo", "hfi.gateway-istio-in") != nil
		})
		s.eventually("the status has the plugin and says what is wrong", func() bool {
			rows := s.view(set).WasmPlugins
			return len(rows) == 4 && rows[0].Name == "by-hand" && strings.Contains(rows[0].Message,
				fmt.Sprintf("WasmPlugin by-hand has the direction %q, which is not inbound, outbound or gateway: its filters inject nothing", direction))
		})
		s.eventually("it has conditions", func() bool { return s.condition("demo", "by-hand", conditionCurrent).Reason == "Behind" })
	}
}

// The status warns of a plugin of somebody else's that Istio adds to listeners of the other direction too,
// as it does without a mode.
func TestForeignPluginsWithoutAModeAreReported(t *testing.T) {
	const sends = "WasmPlugin by-hand also faults the requests that workloads send, as if they received them: set match: [{mode: SERVER}]"
	const receives = "WasmPlugin by-hand also faults the requests that workloads receive, as if they sent them: set match: [{mode: CLIENT}]"
	for _, test := range []struct {
		direction string
		modes     []string
		want      string
	}{
		{"", nil, sends},
		{"inbound", []string{"CLIENT_AND_SERVER"}, sends},
		{"inbound", []string{"SERVER", "CLIENT"}, sends},
		{"inbound", []string{"SERVER"}, ""},
		{"outbound", nil, receives},
		{"outbound", []string{"SERVER"}, receives},
		{"outbound", []string{"CLIENT"}, ""},
	} {
		s := newFixture(t, nil, pluginObject("demo", "by-hand", func(spec map[string]any) {
			if test.direction != "" {
				spec["pluginConfig"].(map[string]any)["direction"] = test.direction
			}
			var match []any
			for _, mode := range test.modes {
				match = append(match, map[string]any{"mode": mode})
			}
			if match != nil {
				spec["match"] = match
			}
		}))
		s.addPods(podOfDeployment("demo", "frontend", "a", nil))
		set := s.serve("in=frontend/demo", "out=frontend/demo outbound")
		s.eventually("the message is there", func() bool {
			rows := s.view(set).WasmPlugins
			if len(rows) == 0 || !strings.Contains(rows[0].Message, "refers to this control plane too") {
				return false
			}
			warned := strings.Contains(rows[0].Message, "also faults")
			return warned == (test.want != "") && strings.Contains(rows[0].Message, test.want)
		})
	}

	// In a gateway all requests are of one kind.
	s := newFixture(t, nil, pluginObject("demo", "by-hand", nil))
	s.addPods(ingressPod("demo", "istio-in", "b"))
	set := s.serve("edge=gateway:istio-in/demo")
	s.eventually("the plugin is known", func() bool {
		rows := s.view(set).WasmPlugins
		return len(rows) == 1 && strings.Contains(rows[0].Message, "refers to this control plane too")
	})
	if message := s.view(set).WasmPlugins[0].Message; strings.Contains(message, "also faults") {
		t.Errorf("the message is %q", message)
	}
}

// An EnvoyFilter of somebody else's may have modules for both directions.
func TestForeignEnvoyFilterOfBothDirections(t *testing.T) {
	module := func(f *family) map[string]any {
		spec := envoyFilterSpec(desiredPlugin{family: f, namespace: "demo", name: "by-hand", url: "http://hfi-control-plane.boifi:8080/v1/filter.wasm", address: "hfi-control-plane.boifi:8080"})
		return spec["configPatches"].([]any)[1].(map[string]any)
	}
	object := pluginObject("demo", "by-hand", nil)
	object.SetAPIVersion(envoyFilters.apiVersion())
	object.SetKind(envoyFilters.kind)
	object.Object["spec"] = map[string]any{"configPatches": []any{module(inbound), module(outbound)}}
	plugin := readPlugin(envoyFilters, object, &url.URL{Scheme: "http", Host: "hfi-control-plane.boifi:8080"})
	if plugin == nil || !plugin.isOf(inbound) || !plugin.isOf(outbound) || plugin.isOf(gateways) {
		t.Errorf("the EnvoyFilter is read as %+v", plugin)
	}
}

// A namespace's message says which family each part is of, and what keeps two families from their plugins
// is said of both.
func TestMessagesNameTheDirection(t *testing.T) {
	outward := func(spec map[string]any) {
		spec["pluginConfig"].(map[string]any)["direction"] = "outbound"
		spec["match"] = []any{map[string]any{"mode": "CLIENT"}}
	}
	s := newFixture(t, func(s *fixture) { s.SHA256 = "" }, pluginObject("demo", "by-hand", outward))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil), ingressPod("demo", "istio-in", "c"))
	set := s.serve("in=frontend/demo", "both=cart/demo", "out=frontend/demo outbound", "edge=gateway:istio-in/demo")
	const none = "this daemon has no filter to serve: start it with --filter"
	s.eventually("the message is complete", func() bool {
		rows := s.view(set).WasmPlugins
		return len(rows) == 1 && rows[0].Message == none+
			"; for outbound requests: WasmPlugin by-hand refers to this control plane too, and hfi did not create it: in pods with two filters more requests are faulted than the policies say; so hfi creates none here"+
			"; for gateways: "+none
	})
}

// A pod that outbound policies target needs a filter, and one with a filter for inbound requests alone
// has none for these.
func TestPodsOfOutboundPoliciesAreAwaited(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.SHA256 = "" }, pluginObject("demo", "by-hand", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("out=frontend/demo outbound", "in=frontend/demo")
	s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
	s.eventually("the pod is known", func() bool { return s.view(set).Pods == 1 && len(s.view(set).WasmPlugins) == 1 })
	view := s.view(set)
	at := func(name string) api.PolicyPods {
		t.Helper()
		return view.Policies[slices.IndexFunc(view.Policies, func(row api.PolicyPods) bool { return row.Name == name })]
	}
	const reason = "it has no filter for outbound requests: no WasmPlugin with this direction selects it"
	if out := at("out"); out.WithoutFilterCount != 1 || out.WithoutFilter[0].Reason != reason || out.Current != 0 {
		t.Errorf("the outbound policy has %+v", out)
	}
	if in := at("in"); in.WithoutFilterCount != 0 || in.Current != 1 {
		t.Errorf("the inbound policy has %+v", in)
	}
	if view.AwaitedPodsCount != 1 {
		t.Errorf("%d pods are awaited", view.AwaitedPodsCount)
	}
}

// A filter is loaded by a plugin only if it sees the requests that the plugin is for: another plugin may
// have loaded it already.
func TestAFilterForOtherRequestsDoesNotCount(t *testing.T) {
	s := newFixture(t, nil)
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("out=frontend/demo outbound", "in=frontend/demo")
	loaded := func(plugin, status string) func() bool {
		return func() bool { return string(s.condition("demo", plugin, conditionLoaded).Status) == status }
	}
	for _, test := range []struct {
		directions []string
		in, out    string
		awaited    string
	}{
		{[]string{"inbound"}, "True", "False", "no contact from a filter for outbound requests"},
		{[]string{"outbound"}, "False", "True", "no contact from a filter for inbound requests"},
		{[]string{"inbound", "outbound"}, "True", "True", ""},
	} {
		s.filters("demo", "frontend", map[string]api.FilterState{"frontend-abc12-a": api.FilterCurrent})
		s.set(func() { s.fleet.Items[0].Directions = test.directions })
		s.eventually("the inbound plugin's status", loaded(frontPlugin, test.in))
		s.eventually("the outbound plugin's status", loaded(outboundPlugin, test.out))
		reason := ""
		if awaited := s.view(set).AwaitedPods; len(awaited) > 0 {
			reason = awaited[0].Reason
		}
		if reason != test.awaited {
			t.Errorf("with a filter for %v: %q is awaited, want %q", test.directions, reason, test.awaited)
		}
	}
}
