package envoy

import (
	"slices"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// A sidecar of checkout, of the newest and of the oldest Envoy, has an inbound and an outbound listener,
// whose filters share a VM in each thread. A policy for outbound requests faults the calls to its destination, and neither
// other calls nor requests that checkout receives; the reverse holds for one for inbound requests.
func TestOutboundPoliciesFaultTheCallsOfAWorkload(t *testing.T) {
	w := newWorld(t)
	clusters := w.clusters()
	routes := map[string]string{
		"/cart": "outbound|8080||cart.demo.svc.cluster.local", "/cart-v2": "outbound|8080|v2|cart.demo.svc.cluster.local",
		"/other-cart": "outbound|8080||cart.other.svc.cluster.local", "/api": "outbound|443||api.example.com",
		"/wildcard": "outbound|80||*.example.com", "/unknown": "PassthroughCluster", "/plain": "cart",
	}
	var outbound []envoytest.Route
	for _, path := range []string{"/cart-v2", "/cart", "/other-cart", "/api", "/wildcard", "/unknown", "/plain"} {
		clusters = append(clusters, envoytest.Cluster{Name: routes[path], Address: w.upstream.Address})
		outbound = append(outbound, envoytest.Route{Prefix: path, Cluster: routes[path]})
	}
	config := func(pod, binary string) envoytest.Config {
		return envoytest.Config{
			Binary: binary, Node: envoytest.Workload("checkout", "demo", pod), Concurrency: 2, Clusters: clusters,
			Listeners: []envoytest.Listener{
				{Name: "in", Filters: []envoytest.Filter{filter(t, settings())}, Routes: outbound},
				{Name: "out", Filters: []envoytest.Filter{filter(t, settings("direction", "outbound"))}, Routes: outbound, AccessLog: marks},
			},
		}
	}
	w.start(t, map[string]envoytest.Config{
		"newest": config("checkout-1", ""), "oldest": config("checkout-2", testtool.Path(t, "envoy-"+olderEnvoys(t)[0])),
	})
	c := client(t, false)
	expect := func(listener, path, host string, status int) {
		t.Helper()
		for name, checkout := range w.envoys {
			for range 4 { // so that both workers have answered
				c.Close()
				answer := ask(t, c, envoytest.Request{URL: checkout.ListenerURL(listener) + path, Host: host})
				if answer.Status != status {
					t.Errorf("%s Envoy, listener %s, %s with the authority %s: status %d, want %d", name, listener, path, host, answer.Status, status)
				}
			}
		}
	}
	w.push(t, `
metadata: {name: without-cart}
spec:
  selector: {service: checkout, namespace: demo}
  direction: outbound
  rules:
  - {match: {to: {service: cart, namespace: demo}}, fault: {abort: {status: 418}}}`, `
metadata: {name: without-api}
spec:
  direction: outbound
  rules:
  - {match: {to: {host: api.example.com}}, fault: {abort: {status: 504}}}`, `
metadata: {name: busy-checkout}
spec:
  rules:
  - {match: {path: {prefix: /cart}, headers: [{name: x-in, present: false}]}, fault: {abort: {status: 503}}}`)
	w.daemon.WaitStatus("both directions reported", func(s *api.Status) bool {
		both := func(f api.FilterStatus) bool {
			return slices.Equal(f.Directions, []string{api.DirectionInbound, api.DirectionOutbound})
		}
		return s.Filters.Current == 2 && both(s.Filters.Items[0]) && both(s.Filters.Items[1])
	})
	for path, want := range map[string]int{"/cart": 418, "/cart-v2": 418, "/other-cart": 200, "/api": 504, "/plain": 200} {
		expect("out", path, "checkout", want)
	}
	for _, path := range []string{"/wildcard", "/unknown"} {
		expect("out", path, "API.example.com:8080", 504)
		expect("out", path, "www.example.com", 200)
	}
	for path, want := range map[string]int{"/cart": 503, "/other-cart": 200, "/api": 200, "/plain": 200} {
		expect("in", path, "api.example.com", want)
	}
	for name, checkout := range w.envoys {
		if err := checkout.WaitAccessLog("out", "/cart 418 abort=without-cart", envoytest.WaitLimit); err != nil {
			t.Errorf("%s Envoy: %v", name, err)
		}
	}

	// In a cluster without Istio's names, the name is the service.
	w.push(t, `
metadata: {name: slow-cart}
spec:
  direction: outbound
  rules: [{match: {to: {service: cart}}, fault: {delay_ms: 400}}]`)
	checkout := w.envoys["newest"]
	fastest := map[string]time.Duration{"/plain": time.Hour, "/cart": time.Hour, "/other-cart": time.Hour, "/api": time.Hour}
	for path := range fastest {
		for range 5 {
			fastest[path] = min(fastest[path], get(t, c, checkout.ListenerURL("out")+path).Elapsed)
		}
		if delayed := fastest[path] >= 400*time.Millisecond; delayed != (path != "/api") {
			t.Errorf("the fastest request to %s took %s", routes[path], fastest[path])
		}
	}
	if took := get(t, c, checkout.ListenerURL("in")+"/cart"); took.Status != 200 {
		t.Errorf("an inbound request has status %d", took.Status)
	}
}

// marks is an access log of the path, the status and the filter's mark.
const marks = `%REQ(:PATH)% %RESPONSE_CODE% %FILTER_STATE(wasm.hfi_fault:PLAIN)%`
