package main

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
)

func TestDestinationOf(t *testing.T) {
	for _, test := range []struct{ cluster, authority, host, service, namespace string }{
		{"outbound|8080||cart.demo.svc.cluster.local", "cart:8080", "cart.demo.svc.cluster.local", "cart", "demo"},
		{"outbound|8080|v2|cart.demo.svc", "cart", "cart.demo.svc", "cart", "demo"},
		{"outbound|443||api.example.com", "api.example.com", "api.example.com", "", ""},
		{"outbound|80||a.b.c.svc.cluster.local", "x", "a.b.c.svc.cluster.local", "", ""},
		{"outbound|80||*.example.com", "A.Example.com:8080", "a.example.com", "", ""},
		{"outbound|80||legacy", "x", "legacy", "legacy", ""},
		{"PassthroughCluster", "10.0.0.1:80", "10.0.0.1", "", ""},
		{"PassthroughCluster", "[::1]", "[::1]", "", ""},
		{"PassthroughCluster", "[::1]:80", "[::1]", "", ""},
		{"PassthroughCluster", "cart", "cart", "", ""},
		{"PassthroughCluster", "cart.demo", "cart.demo", "", ""},
		{"PassthroughCluster", "Cart.demo.svc.cluster.local.:8080", "cart.demo.svc.cluster.local", "cart", "demo"},
		{"PassthroughCluster", "cart.demo.svc:8080", "cart.demo.svc", "cart", "demo"},
		{"outbound|80||*.demo.svc.cluster.local", "cart.demo.svc.cluster.local", "cart.demo.svc.cluster.local", "cart", "demo"},
		{"outbound|80||*.wildcard.example.com", "cart", "cart", "", ""},
		{"PassthroughCluster", "", "", "", ""},
		{"BlackHoleCluster", "cart", "", "", ""},
		{"cart", "x", "cart", "cart", ""},
		{"api.example.com", "x", "api.example.com", "", ""},
		{"cart.demo.svc.cluster.local", "x", "cart.demo.svc.cluster.local", "cart", "demo"},
		{"outbound|80||api.eu.svc.example.com", "x", "api.eu.svc.example.com", "", ""},
		{"outbound|80||cart.demo.svc.clusterset.local", "x", "cart.demo.svc.clusterset.local", "cart", "demo"},
		{"outbound|80||cart.demo.svc.corp.internal", "x", "cart.demo.svc.corp.internal", "cart", "demo"},
		{"outbound|80||cart.demo.svc.corp.internal.example.com", "x", "cart.demo.svc.corp.internal.example.com", "", ""},
		{"outbound|80||cart.demo.svc.", "x", "cart.demo.svc.", "", ""},
		{"outbound|80||.demo.svc", "x", ".demo.svc", "", ""},
		{"outbound|80||cart..svc", "x", "cart..svc", "", ""},
		{"inbound|80||", "x", "inbound|80||", "inbound|80||", ""},
		{"", "x", "", "", ""},
	} {
		want := destination{true, test.host, test.service, test.namespace}
		if got := destinationOf(test.cluster, "corp.internal", func() string { return test.authority }); got != want {
			t.Errorf("cluster %q, authority %q: %+v, want %+v", test.cluster, test.authority, got, want)
		}
	}
}

// TestDestinationAllocatesNothing checks that a usual destination takes no memory.
func TestDestinationAllocatesNothing(t *testing.T) {
	for _, cluster := range []string{"outbound|8080||cart.demo.svc.cluster.local", "PassthroughCluster"} {
		if n := testing.AllocsPerRun(100, func() { destinationOf(cluster, "", func() string { return "api.example.com:8080" }) }); n > 0 {
			t.Errorf("that of cluster %s takes %g allocations", cluster, n)
		}
	}
}

// TestClusterDomain checks that a service's host has a domain of clusters, or that of the node's ID.
func TestClusterDomain(t *testing.T) {
	for node, want := range map[string]string{
		"sidecar~10.0.0.1~frontend-1.demo~demo.svc.corp.internal": "corp.internal",
		"router~10.0.0.1~in-1.demo~demo.svc.cluster.local":        "cluster.local",
		"sidecar~10.0.0.1~frontend-1.demo~demo.svc.":              "",
		"sidecar~10.0.0.1~frontend-1.demo~demo.svc":               "",
		"sidecar~10.0.0.1~frontend-1.demo~corp.internal":          "",
		"sidecar~10.0.0.1~frontend-1.demo":                        "",
		"node-1":                                                  "",
		"":                                                        "",
	} {
		if got := (identity{Node: node}).domain(); got != want {
			t.Errorf("node %q has the domain %q, want %q", node, got, want)
		}
	}
}

// TestDirections checks that each plugin context executes the policies for its direction, with one
// poller for both.
func TestDirections(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, `{"policies":[
		{"metadata":{"name":"in"},"spec":{"rules":[{"match":{"path":{"exact":"/in"}},"fault":{"abort":{"status":501}}}]}},
		{"metadata":{"name":"out"},"spec":{"direction":"outbound","rules":[{"match":{"to":{"service":"cart","namespace":"demo"}},"fault":{"abort":{"status":502}}}]}},
		{"metadata":{"name":"api"},"spec":{"direction":"outbound","rules":[{"match":{"to":{"host":"api.example.com"}},"fault":{"abort":{"status":504}}}]}}]}`,
		map[string]string{"etag": `"a"`})
	if h.gauge(metricPolicies) != 3 {
		t.Errorf("%d policies are in force", h.gauge(metricPolicies))
	}
	outbound := h.vm.plugins[0].config
	outbound.Outbound = true
	h.vm.addPlugin(2, outbound)
	if h.vm.plugins[1].poll != h.poll() {
		t.Error("the two directions have two pollers")
	}
	if got := h.vm.directions(); got != "inbound,outbound" {
		t.Errorf("the daemon is told of the directions %q", got)
	}
	send := func(plugin uint32, path, cluster string) int {
		if err := h.SetProperty([]string{"xds", "cluster_name"}, []byte(cluster)); err != nil {
			t.Fatal(err)
		}
		id := h.InitializeHttpContext()
		defer h.CompleteHttpContext(id)
		h.vm.startStream(id, plugin)
		h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", path}, {":authority", "API.example.com:80"}}, true)
		if response := h.GetSentLocalResponse(id); response != nil {
			return int(response.StatusCode)
		}
		return 200
	}
	for _, test := range []struct {
		plugin        uint32
		path, cluster string
		want          int
	}{
		{1, "/in", "outbound|80||cart.demo.svc.cluster.local", 501},
		{1, "/", "outbound|80||cart.demo.svc.cluster.local", 200},
		{2, "/in", "outbound|80||cart.demo.svc.cluster.local", 502},
		{2, "/in", "outbound|80||cart.other.svc.cluster.local", 200},
		{2, "/in", "outbound|80||api.example.com", 504},
		{2, "/in", "PassthroughCluster", 504},
		{2, "/in", "cart", 200},
	} {
		if got := send(test.plugin, test.path, test.cluster); got != test.want {
			t.Errorf("in plugin context %d, %s to %s has status %d, want %d", test.plugin, test.path, test.cluster, got, test.want)
		}
	}
	read, err := program.Read([]byte(compile(t, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"abort":{"status":503}}}]}}]}`)), h.poll().workload())
	if err != nil {
		t.Fatal(err)
	}
	h.poll().enforce(read)
	if send(1, "/", "cart") != 503 || send(2, "/", "cart") != 200 {
		t.Error("a policy for inbound requests is not in force for these alone")
	}
	h.vm.stopPlugin(1)
	if got := h.vm.directions(); got != "outbound" {
		t.Errorf("without the inbound plugin, the daemon is told of the directions %q", got)
	}
}

// TestDirectionIsReported checks that requests to the daemon have the direction, unless it is the default.
func TestDirectionIsReported(t *testing.T) {
	for config, want := range map[string]string{
		frontendConfig: "",
		`{"control_plane_cluster": "hfi", "direction": "outbound"}`: "outbound",
		`{"control_plane_cluster": "hfi", "direction": "both"}`:     "",
	} {
		t.Run(config, func(t *testing.T) {
			h := start(t, config, frontend)
			h.pass(time.Second)
			if got := h.request()["x-hfi-directions"]; got != want {
				t.Errorf("the request has the directions %q, want %q", got, want)
			}
		})
	}
}

// TestUnknownDirection checks that a filter whose direction is not known injects nothing, and says so.
func TestUnknownDirection(t *testing.T) {
	const why = `setting direction: "both" is not "inbound", "outbound" or "gateway": no faults are injected`
	h := start(t, `{"control_plane_cluster": "hfi", "direction": "both"}`, frontend)
	if logs := strings.Join(h.GetErrorLogs(), ""); !strings.Contains(logs, why) {
		t.Errorf("the log is %q", logs)
	}
	h.pass(time.Second)
	h.refused(why)
}
