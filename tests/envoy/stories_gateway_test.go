package envoy

import (
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// A policy with a gateway in its selector applies to that gateway, and no other policy does: not
// even one for everything, which would fault requests twice on their way through a gateway and a
// sidecar. A gateway is an Envoy whose settings say so, or one of Istio's.
func TestPoliciesForGateways(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	wasm := func(name string, more ...any) envoytest.Listener {
		return envoytest.Listener{Name: name, Filters: []envoytest.Filter{
			envoytest.Wasm{Name: name, File: hfidtest.Module(t), Configuration: settings(more...)}.Filter(),
		}}
	}
	istio := func(pod, workload string, labels map[string]any) envoytest.Node {
		return envoytest.Node{
			ID: "router~127.0.0.1~" + pod + ".mesh~mesh.svc.cluster.local", Cluster: workload + ".mesh",
			Metadata: map[string]any{"WORKLOAD_NAME": workload, "NAMESPACE": "mesh", "NAME": pod, "LABELS": labels},
		}
	}
	plain := &sidecar{name: "plain", vms: 2, Envoy: envoytest.Run(t, envoytest.Config{
		Node: envoytest.Node{ID: "edge-1", Cluster: "edge"}, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{wasm("edge", "gateway", "edge", "namespace", "infra"), wasm("other", "gateway", "other", "namespace", "infra"), wasm("workload")},
	})}
	ingress := &sidecar{name: "ingress", vms: 2, Envoy: envoytest.Run(t, envoytest.Config{
		Node: istio("ingress-1", "ingress", map[string]any{"app": "ingress"}), Clusters: w.clusters(), Listeners: []envoytest.Listener{wasm("ingress")},
	})}
	// The Deployment of a Gateway of Kubernetes's Gateway API has another name.
	labelled := &sidecar{name: "labelled", vms: 2, Envoy: envoytest.Run(t, envoytest.Config{
		Node:     istio("shop-1", "shop-istio", map[string]any{"gateway.networking.k8s.io/gateway-name": "shop"}),
		Clusters: w.clusters(), Listeners: []envoytest.Listener{wasm("labelled")},
	})}

	w.push(t,
		targeted("everything", `{}`),
		targeted("any-gateway", `{gateway: "*"}`),
		targeted("any-of-mesh", `{gateway: "*", namespace: mesh}`),
		targeted("all-of-mesh", `{namespace: mesh}`),
		targeted("edge", `{gateway: edge, namespace: infra}`),
		targeted("ingress", `{gateway: ingress}`),
		targeted("ingress-service", `{service: ingress, namespace: mesh}`),
		targeted("shop", `{gateway: shop, namespace: mesh}`),
		targeted("shop-istio", `{gateway: shop-istio}`))
	for _, g := range []struct {
		*sidecar
		listener, query string
		faulted         string
	}{
		{plain, "edge", "?gateway=edge&namespace=infra", "any-gateway edge"},
		{plain, "other", "?gateway=other&namespace=infra", "any-gateway"},
		{plain, "workload", "?service=&namespace=", "everything"},
		{ingress, "ingress", "?gateway=ingress&namespace=mesh", "any-gateway any-of-mesh ingress"},
		{labelled, "labelled", "?gateway=shop&namespace=mesh", "any-gateway any-of-mesh shop"},
	} {
		etag := w.daemon.Policies(g.query).ETag
		await(t, etag+" in force behind listener "+g.listener, func() bool { return g.has(g.listener, etag) })
		c, faulted := client(t, false), []string{}
		for _, policy := range []string{"all-of-mesh", "any-gateway", "any-of-mesh", "edge", "everything", "ingress", "ingress-service", "shop", "shop-istio"} {
			if answer := get(t, c, g.ListenerURL(g.listener)+"/"+policy); answer.Status == 418 {
				faulted = append(faulted, policy)
			}
		}
		if got := strings.Join(faulted, " "); got != g.faulted {
			t.Errorf("listener %s: requests are faulted by %q, want %q", g.listener, got, g.faulted)
		}
	}
	if err := ingress.WaitLog(`started for gateway="ingress" namespace="mesh" pod="ingress-1"`, envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	await(t, "all filters current, each with its gateway", func() bool {
		seen := map[string]bool{}
		filters := w.daemon.Status().Filters
		for _, item := range filters.Items {
			seen[item.Namespace+" "+item.Service+" "+item.Gateway] = true
		}
		return filters.Current == 5 && seen["infra  edge"] && seen["infra  other"] && seen["  "] && seen["mesh  ingress"] && seen["mesh  shop"]
	})
}

// A waypoint of Istio's ambient mode receives the requests of all services of its namespace: each
// policy applies to those of its service, by the names that istiod gives to the chains of filters. The Envoy
// here is a stock one with such names and a waypoint's node, in which the chains are listeners.
func TestPoliciesInAWaypoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := envoytest.Config{
		Node: envoytest.Node{
			ID: "waypoint~127.0.0.1~way-1.demo~demo.svc.cluster.local", Cluster: "way.demo",
			Metadata: map[string]any{"WORKLOAD_NAME": "way", "NAMESPACE": "demo", "NAME": "way-1", "LABELS": map[string]any{"gateway.networking.k8s.io/gateway-name": "way"}},
		},
		Clusters: w.clusters(),
	}
	for name, chain := range map[string]string{
		"cart": "inbound-vip|80|http|cart.demo.svc.cluster.local", "pay": "inbound-vip|8080|http|pay.demo.svc.cluster.local",
		"foreign": "inbound-vip|80|http|cart.other.svc.cluster.local", "direct": "direct-http",
	} {
		config.Listeners = append(config.Listeners, envoytest.Listener{Name: name, Chain: chain, Filters: []envoytest.Filter{filter(t, settings())}})
	}
	way := &sidecar{name: "way", vms: 2, Envoy: envoytest.Run(t, config)}
	w.push(t,
		targeted("everything", `{}`),
		targeted("all-of-demo", `{namespace: demo}`),
		targeted("cart-demo", `{service: cart, namespace: demo}`),
		targeted("cart-any", `{service: cart}`),
		targeted("pay", `{service: pay, namespace: demo}`),
		targeted("elsewhere", `{service: cart, namespace: other}`),
		targeted("way", `{service: way, namespace: demo}`),
		targeted("gateway", `{gateway: "*"}`))
	etag := w.daemon.Policies("?waypoint=way&namespace=demo").ETag
	await(t, etag+" in force in the waypoint", func() bool { return way.has("hfi", etag) })
	for listener, want := range map[string]string{
		"cart": "all-of-demo cart-any cart-demo everything", "pay": "all-of-demo everything pay",
		"foreign": "cart-any everything", "direct": "everything",
	} {
		c, faulted := client(t, false), []string{}
		for _, policy := range []string{"all-of-demo", "cart-any", "cart-demo", "elsewhere", "everything", "gateway", "pay", "way"} {
			if answer := get(t, c, way.ListenerURL(listener)+"/"+policy); answer.Status == 418 {
				faulted = append(faulted, policy)
			}
		}
		if got := strings.Join(faulted, " "); got != want {
			t.Errorf("chain %s: requests are faulted by %q, want %q", listener, got, want)
		}
	}
	await(t, "the filter is current, as that of the waypoint", func() bool {
		filters := w.daemon.Status().Filters
		return filters.Current == 1 && filters.Items[0].Waypoint == "way" && filters.Items[0].Namespace == "demo" && filters.Items[0].Service == ""
	})
}
