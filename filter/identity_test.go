package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// TestOldEnvoy checks that the filter does nothing in an Envoy that is too old, and says this
// in the log and to the daemon.
func TestOldEnvoy(t *testing.T) {
	const why = "Envoy 1.31 is not supported: no faults are injected; the filter needs Envoy 1.32 or newer"
	h := start(t, frontendConfig, frontend, 1, 31)
	if logs := h.GetErrorLogs(); len(logs) != 1 || !strings.Contains(logs[0], why) {
		t.Errorf("the log is %q", logs)
	}
	h.pass(time.Second)
	if request := h.request(); request["x-hfi-envoy"] != "1.31" {
		t.Errorf("the request has %q", request)
	}
	h.refused(why)
}

func TestSupportedEnvoys(t *testing.T) {
	for _, version := range [][]uint64{{1, 32}, {1, 40}, {2, 0}, {0, 0}, nil} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			h := start(t, frontendConfig, frontend, version...)
			h.pass(time.Second)
			if h.requests() != 1 {
				t.Error("the filter sends no request")
			}
		})
	}
}

// TestUnknownIdentity checks that the filter warns of missing metadata, and requests the policies
// that apply to any workload.
func TestUnknownIdentity(t *testing.T) {
	for _, c := range []struct {
		node           map[string]string
		query, warning string
	}{
		{map[string]string{"id": "n"}, "?service=&namespace=&", "no WORKLOAD_NAME and no NAMESPACE: only policies for any service in any namespace"},
		{map[string]string{"metadata.NAMESPACE": "demo"}, "?service=&namespace=demo&", "no WORKLOAD_NAME: only policies for any service"},
		{map[string]string{"metadata.WORKLOAD_NAME": "frontend"}, "?service=frontend&namespace=&", "no NAMESPACE: only policies for any namespace"},
	} {
		t.Run(c.query, func(t *testing.T) {
			h := start(t, frontendConfig, c.node)
			h.pass(time.Second)
			if path := h.request()[":path"]; !strings.Contains(path, c.query) {
				t.Errorf("the path is %s", path)
			}
			if !slices.ContainsFunc(h.GetWarnLogs(), func(log string) bool { return strings.Contains(log, c.warning) }) {
				t.Errorf("the log is %q", h.GetWarnLogs())
			}
		})
	}
	t.Run("known", func(t *testing.T) {
		if h := start(t, frontendConfig, frontend); len(h.GetWarnLogs()) != 0 {
			t.Errorf("warnings with a known identity: %q", h.GetWarnLogs())
		}
	})
}

// TestGatewayIdentity checks which gateway's policies the filter requests, and what it warns of.
func TestGatewayIdentity(t *testing.T) {
	router := func(more ...string) map[string]string {
		node := map[string]string{"id": "router~10.0.0.1~in-1.mesh~mesh.svc.cluster.local"}
		for i := 0; i < len(more); i += 2 {
			node[more[i]] = more[i+1]
		}
		return node
	}
	named := `{"control_plane_cluster": "hfi", "gateway": "edge&1", "namespace": "infra"}`
	for _, c := range []struct {
		config         string
		node           map[string]string
		query, warning string
	}{
		{named, map[string]string{"id": "n"}, "?gateway=edge%261&namespace=infra&", ""},
		{named, frontend, "?gateway=edge%261&namespace=demo&", ""},
		{named, router("metadata.WORKLOAD_NAME", "ingress", "metadata.NAMESPACE", "mesh"), "?gateway=edge%261&namespace=mesh&", ""},
		{`{"control_plane_cluster": "hfi", "gateway": "edge"}`, map[string]string{"id": "n"}, "?gateway=edge&namespace=&", "no NAMESPACE: only policies for any namespace"},
		{frontendConfig, router("metadata.WORKLOAD_NAME", "ingress", "metadata.NAMESPACE", "mesh"), "?gateway=ingress&namespace=mesh&", ""},
		{frontendConfig, router("metadata.WORKLOAD_NAME", "in-istio", "metadata.NAMESPACE", "mesh", "metadata.LABELS/gateway.networking.k8s.io/gateway-name", "in"), "?gateway=in&namespace=mesh&", ""},
		{frontendConfig, router("metadata.NAMESPACE", "mesh"), "?gateway=&namespace=mesh&", "no WORKLOAD_NAME: only policies for any gateway"},
		{frontendConfig, router(), "?gateway=&namespace=&", "no WORKLOAD_NAME and no NAMESPACE: only policies for any gateway in any namespace"},
	} {
		t.Run(c.query, func(t *testing.T) {
			h := start(t, c.config, c.node)
			h.pass(time.Second)
			if path := h.request()[":path"]; !strings.Contains(path, c.query) {
				t.Errorf("the path is %s", path)
			}
			if logs := h.GetWarnLogs(); c.warning == "" && len(logs) > 0 || !strings.Contains(strings.Join(logs, ""), c.warning) {
				t.Errorf("the log is %q", logs)
			}
			h.answer(200, `{"policies":[{"metadata":{"name":"a"},"spec":{"rules":[{"fault":{"abort":{"status":501}}}]}},`+
				`{"metadata":{"name":"b"},"spec":{"selector":{"gateway":"*"},"rules":[{"match":{"to":{"service":"cart"}},"fault":{"abort":{"status":502}}}]}}]}`, map[string]string{"etag": `"a"`})
			for service, status := range map[string]int{"cart": 502, "pay": 200} {
				if err := h.SetProperty([]string{"xds", "cluster_name"}, []byte("outbound|80||"+service+".demo.svc.cluster.local")); err != nil {
					t.Fatal(err)
				}
				h.mustGet(status)
			}
		})
	}
}

// TestDirectionGateway checks that a filter for a gateway injects nothing in an Envoy that is none,
// where its requests would be those that a workload sends.
func TestDirectionGateway(t *testing.T) {
	const forGateways = `{"control_plane_cluster": "hfi", "direction": "gateway"}`
	policies := `{"policies":[{"metadata":{"name":"a"},"spec":{"selector":{"gateway":"*"},"rules":[{"fault":{"abort":{"status":502}}}]}},` +
		`{"metadata":{"name":"b"},"spec":{"rules":[{"fault":{"abort":{"status":501}}}]}}]}`
	for name, c := range map[string]struct {
		node   map[string]string
		status int
		why    string
	}{
		"gateway":  {map[string]string{"id": "router~10.0.0.1~in-1.mesh~mesh.svc.cluster.local", "metadata.WORKLOAD_NAME": "in", "metadata.NAMESPACE": "mesh"}, 502, ""},
		"workload": {frontend, 200, `setting direction: "gateway" and this Envoy is no gateway: no faults are injected`},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, forGateways, c.node)
			h.pass(time.Second)
			if why := h.request()["x-hfi-error"]; why != c.why {
				t.Errorf("the daemon gets the reason %q", why)
			}
			if logs := strings.Join(h.GetErrorLogs(), ""); !strings.Contains(logs, c.why) || c.why == "" && logs != "" {
				t.Errorf("the log is %q", logs)
			}
			h.answer(200, policies, map[string]string{"etag": `"a"`})
			h.mustGet(c.status)
		})
	}
}

// TestWaypoint checks that a waypoint requests the policies of its namespace, and applies each to the
// requests of its service.
func TestWaypoint(t *testing.T) {
	h := start(t, frontendConfig, map[string]string{
		"id": "waypoint~10.0.0.1~way-1.demo~demo.svc.cluster.local", "metadata.NAMESPACE": "demo", "metadata.WORKLOAD_NAME": "way-istio-waypoint",
		"metadata.LABELS/gateway.networking.k8s.io/gateway-name": "way",
	})
	h.pass(time.Second)
	if path := h.request()[":path"]; !strings.Contains(path, "?waypoint=way&namespace=demo&") {
		t.Errorf("the path is %s", path)
	}
	if logs := h.GetWarnLogs(); len(logs) > 0 {
		t.Errorf("the log is %q", logs)
	}
	policy := func(name, selector string, status int) *schema.Policy {
		parsed, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":%s,"rules":[{"fault":{"abort":{"status":%d}}}]}}`, name, selector, status))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	var compiled []*program.Compiled
	for _, each := range []*schema.Policy{
		policy("cart", `{"service":"cart","namespace":"demo"}`, 501), policy("gateway", `{"gateway":"*"}`, 502), policy("pay", `{"service":"pay"}`, 503),
	} {
		one, err := new(program.Compiler).Compile(each)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, one)
	}
	encoded, err := program.EncodeForWaypoints(compiled)
	if err != nil {
		t.Fatal(err)
	}
	h.answer(200, string(encoded), map[string]string{"etag": `"a"`})
	for _, test := range []struct {
		chain string
		want  int
	}{
		{"inbound-vip|80|http|cart.demo.svc.cluster.local", 501},
		{"inbound-vip|80|http|cart.other.svc.cluster.local", 200},
		{"inbound-vip|80|http|pay.demo.svc.cluster.local", 503},
		{"inbound-vip|80|http|web.demo.svc.cluster.local", 200},
		{"inbound-vip|80|http|cart.example.com", 200},
		{"direct-http", 200},
	} {
		if err := h.SetProperty([]string{"xds", "filter_chain_name"}, []byte(test.chain)); err != nil {
			t.Fatal(err)
		}
		if got := h.status(); got != test.want {
			t.Errorf("%s: status %d, want %d", test.chain, got, test.want)
		}
	}
}
