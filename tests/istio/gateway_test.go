//go:build linux

package istio

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// ingress is a gateway as Istio's chart installs one, and a route from it to frontend.
const ingress = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: ingress, namespace: demo}
spec:
  selector: {matchLabels: {app: ingress, istio: ingress}}
  template:
    metadata:
      annotations: {inject.istio.io/templates: gateway}
      labels: {sidecar.istio.io/inject: "true", app: ingress, istio: ingress}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: istio-proxy
        image: auto
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: demo}
spec:
  selector: {istio: ingress}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ingress, namespace: demo}
spec:
  selector: {istio: ingress}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example.com]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ingress, namespace: demo}
spec:
  hosts: [shop.example.com]
  gateways: [ingress]
  http:
  - match: [{uri: {prefix: /catalog}}]
    route: [{destination: {host: productcatalog}}]
  - route: [{destination: {host: frontend}}]
`

// A policy for a gateway faults the requests that pass through Istio's ingress gateway, by their
// destination too, and none that reach a workload otherwise. The daemon keeps a plugin of its own for that,
// of either kind of objects, and puts no filter into a gateway for policies for workloads.
func gatewayStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.apply(t, ingress)
	defer func() {
		w.kubectl(t, "-n", "demo", "delete", "--wait=false", "deployment/ingress", "service/ingress", "gateways.networking.istio.io/ingress", "virtualservice/ingress")
		eventually(t, "the end of the gateway", 2*time.Minute, func() error {
			if left := w.kubectl(t, "-n", "demo", "get", "pods", "-l", "app=ingress", "-o", "name"); left != "" {
				return fmt.Errorf("there is %s", left)
			}
			return nil
		})
	}()
	w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/ingress", "--timeout=55s")
	for _, kind := range []string{"wasmplugin", "envoyfilter"} {
		t.Run(kind, func(t *testing.T) { w.faultsAtGateway(t, kind) })
	}
}

// passes returns nil if a request to shop.example.com through a gateway's pod gets that status.
func (p appPod) passes(path string, status int) error {
	request, err := http.NewRequest(http.MethodGet, p.url()+path, nil)
	if err != nil {
		return err
	}
	request.Host = "shop.example.com"
	response, err := quick.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode != status {
		return fmt.Errorf("/%s through %s: %d, not %d: %s", path, p.name, response.StatusCode, status, text)
	}
	return nil
}

// gatewayFilters returns the pods of the filters in gateways, with the gateway and the service.
func (w *world) gatewayFilters(t *testing.T) (pods []string) {
	t.Helper()
	var filters api.FiltersStatus
	w.ask(t, "/v1/filters", &filters)
	for _, item := range filters.Items {
		if item.Gateway != "" || strings.HasPrefix(item.Pod, "ingress") {
			pods = append(pods, item.Namespace+"/"+item.Pod+" "+item.Gateway+" "+item.Service)
		}
	}
	return pods
}

func (w *world) faultsAtGateway(t *testing.T, kind string) {
	w.install(t, []string{"external-etcd", kind + "-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo",
		"HFID_KUBE_DELIVERY="+kind, "HFID_KUBE_LINGER=0s")
	defer w.installUsual(t)
	defer w.kubectl(t, "-n", "demo", "delete", kind, "--all")
	there := func(want string) {
		t.Helper()
		eventually(t, "the plugins "+want, time.Minute, func() error {
			list := w.kubectl(t, "-n", "demo", "get", kind, "-o", `jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}`)
			if names := strings.Join(strings.Fields(list), " "); names != want {
				return fmt.Errorf("there is %q", names)
			}
			return nil
		})
	}
	pods := w.pods(t, "demo", "app=ingress")
	if len(pods) != 1 {
		t.Fatalf("the gateway has the pods %v", pods)
	}
	gateway := pods[0]
	until := func(what, path string, status int) {
		t.Helper()
		eventually(t, what, 2*time.Minute, func() error { return gateway.passes(path, status) })
	}
	until("the route to frontend", "", 200)
	until("the route to productcatalog", "catalog", 200)

	atGateway := func(name, match string, status int) string {
		return fmt.Sprintf("metadata: {name: %s}\nspec:\n  selector: {gateway: ingress, namespace: demo}\n  rules:\n  - {match: {%s}, fault: {abort: {status: %d}}}\n", name, match, status)
	}
	began := time.Now()
	w.push(t, atGateway("slash-fault", "path: {exact: /fault}", 418), atGateway("to-catalog", "to: {service: productcatalog, namespace: demo}", 419))
	until("the policy by path", "fault", 418)
	t.Logf("it was enforced %.1f s after the push", time.Since(began).Seconds())
	until("the policy by destination", "catalog", 419)
	if problem := gateway.passes("", 200); problem != nil {
		t.Error(problem)
	}
	there("hfi.gateway-ingress")
	if filters := w.gatewayFilters(t); len(filters) != 1 || filters[0] != "demo/"+gateway.name+" ingress " {
		t.Errorf("the filters of gateways are %q", filters)
	}
	w.saysOf(t, kind, "hfi.gateway-ingress", "True", "Loaded", time.Minute, "loaded on 1 of 1 pods")
	for _, pod := range append(w.frontends(t), w.catalog(t)) {
		w.all(t, pod, 200)
	}

	// Which plugins there are does not depend on their kind.
	if kind == "wasmplugin" {
		// A policy for all workloads is not one for gateways: these have no filter then.
		w.push(t, abort("everything", "*", "*", 420, 100))
		until("the policy for workloads", "", 420)
		there("hfi")
		w.saysOf(t, kind, "hfi", "True", "Loaded", time.Minute, "loaded on 4 of 4 pods")
		eventually(t, "the end of the gateway's filter", 2*time.Minute, func() error {
			if filters := w.gatewayFilters(t); len(filters) > 0 {
				return fmt.Errorf("there is %v", filters)
			}
			return nil
		})
	}
	w.push(t)
	until("no policy", "", 200)
}
