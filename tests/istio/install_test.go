//go:build linux

package istio

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/oci"
)

// Istio's agent fetches the filter from a registry, by an oci:// URL and its
// digest, for a single workload.
func artefactStory(t *testing.T, w *world) {
	listener, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	defer func() {
		server.Close()
		<-done
	}()
	filter, err := oci.Filter("dev", w.module)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := oci.Push(w.ctx, listener.Addr().String()+"/platform", "dev", w.images, filter)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(w.manifest("deploy/istio/workload.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const example = "url: oci://registry.example.com/platform/hfi-filter:dev"
	if !strings.Contains(string(manifest), example) {
		t.Fatalf("the manifest has no %q", example)
	}
	w.pushAndWait(t, abort("artefact", "*", "*", 418, 100))
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	pods := w.frontends(t)
	w.untilAll(t, time.Now(), append(pods, w.catalog(t)), 200, time.Minute)
	began := time.Now()
	w.apply(t, strings.Replace(string(manifest), example, "url: oci://"+pushed[1], 1))
	w.untilAll(t, began, pods, 418, 2*time.Minute)
	t.Logf("from the WasmPlugin with %s to enforced: %.1f s", pushed[1], time.Since(began).Seconds())
	w.all(t, w.catalog(t), 200)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
}

// If it manages the WasmPlugins of a namespace, the daemon creates one for each
// workload that a policy targets, repairs it, and deletes it with the last policy.
func keepStory(t *testing.T, w *world) {
	w.keeps(t, "wasmplugin", `{"spec":{"failStrategy":"FAIL_CLOSE"}}`)
}

// The daemon delivers the filter by EnvoyFilters just as well.
func envoyFilterStory(t *testing.T, w *world) {
	w.keeps(t, "envoyfilter", `{"spec":{"priority":7}}`)
}

// In a cluster that has no WasmPlugins any more, the daemon delivers the filter by
// TrafficExtensions.
func trafficExtensionStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.kubectl(t, "delete", "crd", "wasmplugins.extensions.istio.io")
	w.install(t, []string{"external-etcd", "wasmplugin-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo")
	eventually(t, "the end of the filters that WasmPlugins delivered", 2*time.Minute, func() error {
		filters, err := w.filters()
		if err == nil && len(filters.Items) > 0 {
			err = fmt.Errorf("there are %+v", filters.Items)
		}
		return err
	})
	began := time.Now()
	w.hfi(t, "", "wait", w.push(t, abort("kept", "frontend", "demo", 418, 100)), "--timeout", "110s")
	t.Logf("every targeted pod had the filter %.1f s after the push", time.Since(began).Seconds())
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 418)
	}
	w.saysOf(t, "trafficextension", "hfi-frontend", "True", "Loaded", time.Minute, "loaded on 3 of 3 pods")
}

// keeps has the daemon deliver the filter by a kind of objects, which patch damages.
func (w *world) keeps(t *testing.T, kind, patch string) {
	w.pushAndWait(t)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.install(t, []string{"external-etcd", kind + "-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo",
		"HFID_KUBE_DELIVERY="+kind, "HFID_KUBE_LINGER=0s")
	defer w.installUsual(t)
	defer w.kubectl(t, "-n", "demo", "delete", kind, "--all")
	list := func(format string) string {
		return w.kubectl(t, "-n", "demo", "get", kind, "-o", `jsonpath={range .items[*]}`+format+`{"\n"}{end}`)
	}
	only := func(names string) func() error {
		return func() error {
			if there := strings.Join(strings.Fields(list("{.metadata.name}")), " "); there != names {
				return fmt.Errorf("there is %q, want %q", there, names)
			}
			return nil
		}
	}
	time.Sleep(3 * time.Second) // enough time to create one, which must not happen
	if err := only("")(); err != nil {
		t.Errorf("without a policy: %v", err)
	}
	began := time.Now()
	pods := w.frontends(t)
	w.push(t, abort("kept", "frontend", "demo", 418, 100))
	took := eventually(t, "the plugin", time.Minute, only("hfi-frontend"))
	t.Logf("the %s was there %.1f s after the push", kind, took.Seconds())
	w.untilAll(t, began, pods, 418, 2*time.Minute)
	t.Logf("it was enforced everywhere %.1f s after the push", time.Since(began).Seconds())
	w.saysOf(t, kind, "hfi-frontend", "True", "Loaded", time.Minute, "loaded on 3 of 3 pods")
	// Those of an earlier story are gone soon: Envoy drains their listeners first, and they may be late for a while.
	eventually(t, "the filter is in the pods of frontend only", 3*time.Minute, func() error {
		filters, err := w.filters()
		if err != nil {
			return err
		}
		for _, filter := range filters.Items {
			if filter.Service != "frontend" {
				return fmt.Errorf("it is also in %s: %+v", filter.Pod, filter)
			}
		}
		return nil
	})
	spec := list("{.spec}")
	if !strings.Contains(spec, "/v1/filter/") || !strings.Contains(spec, `"app":"frontend"`) {
		t.Errorf("its spec is %s", spec)
	}
	w.kubectl(t, "-n", "demo", "patch", kind, "hfi-frontend", "--type=merge", "-p", patch)
	eventually(t, "the repair", time.Minute, func() error {
		if now := list("{.spec}"); now != spec {
			return fmt.Errorf("it is %s", now)
		}
		return nil
	})

	w.pushAndWait(t, delay("kept", "frontend", "demo"))
	w.replaced(t, pods[0], func() {
		w.push(t, delay("kept", "frontend", "demo"), abort("nobody", "*", "demo", 419, 0))
		eventually(t, "the plugin for all workloads", time.Minute, only("hfi"))
		w.awaitFilters(t)
	})
	w.replaced(t, pods[0], func() {
		w.push(t, delay("kept", "frontend", "demo"))
		eventually(t, "the plugin for the workload", time.Minute, only("hfi-frontend"))
	})

	w.push(t)
	eventually(t, "the plugin is deleted", time.Minute, only(""))
	events := w.kubectl(t, "-n", "demo", "get", "events")
	for _, word := range []string{"Created", "Repaired", "Pruned"} {
		if !strings.Contains(events, word) {
			t.Errorf("no Event says %s:\n%s", word, events)
		}
	}
}

// delay returns a policy that delays all requests of a service.
func delay(name, service, namespace string) string {
	return fmt.Sprintf("metadata: {name: %s}\nspec: {selector: {service: %q, namespace: %q}, rules: [{fault: {delay_ms: 5}}]}\n", name, service, namespace)
}

// replaced sends requests to a pod of which all are delayed while its plugin is
// replaced, and checks that each was delayed once: none passed without the filter, or
// through two.
func (w *world) replaced(t *testing.T, pod appPod, replace func()) {
	t.Helper()
	const delays = "hfi_faults_delays_total"
	before := w.metric(t, pod, delays)
	ending, sent := make(chan struct{}), make(chan int)
	go func() {
		count := 0
		for {
			select {
			case <-ending:
				sent <- count
				return
			default:
				if pod.answersWith(200) == nil {
					count++
				}
			}
		}
	}()
	replace()
	// A sidecar keeps the former configuration until it has loaded the next.
	time.Sleep(5 * time.Second)
	close(ending)
	count := <-sent
	// Each VM writes its metrics once a second.
	time.Sleep(3 * time.Second)
	if delayed := w.metric(t, pod, delays) - before; delayed != count || count == 0 {
		t.Errorf("of %d requests %d were delayed", count, delayed)
	} else {
		t.Logf("each of %d requests was delayed once", count)
	}
}

// If a permission is missing the daemon reports which, and continues with everything else.
func permissionStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	w.kubectl(t, "patch", "clusterrole", "hfi-control-plane", "--type=json", "-p", `[{"op":"test","path":"/rules/0/resources","value":["pods"]},{"op":"remove","path":"/rules/0"}]`)
	defer w.installUsual(t)
	// Open watches continue, so restart the daemon, which then has to ask again.
	w.kubectl(t, "-n", "boifi", "rollout", "restart", "deployment/hfi-control-plane")
	w.kubectl(t, "-n", "boifi", "rollout", "status", "deployment/hfi-control-plane", "--timeout=55s")
	eventually(t, "the missing permission in the status", time.Minute, func() error {
		var status api.Status
		if err := w.tryAsk("/v1/status", &status); err != nil {
			return err
		}
		if view := status.Kubernetes.KubernetesView; view == nil || !strings.Contains(strings.Join(view.MissingPermissions, "; "), "pods") {
			return fmt.Errorf("it is %+v", status.Kubernetes)
		}
		return nil
	})
	w.pushAndWait(t, abort("all-the-same", "frontend", "demo", 418, 100))
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 418)
	}
}

// With the overlay of an etcd with three members, the daemon serves what is in git,
// and continues after the loss of a member.
func ownEtcdStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("moved", "frontend", "demo", 418, 100))
	w.loadPlugin(t)
	w.kubectl(t, "apply", "--validate=strict", "-f", w.manifest("deploy/kubernetes/overlays/etcd/service.yaml"), "-n", "boifi")
	w.install(t, []string{"etcd"})
	defer w.installUsual(t)
	w.kubectl(t, "-n", "boifi", "rollout", "status", "statefulset/hfi-etcd", "--timeout=55s")
	var status api.Status
	w.ask(t, "/v1/status", &status)
	if status.Etcd.Mode != "external" || !status.Etcd.Healthy || len(status.Etcd.Endpoints) != 3 {
		t.Errorf("etcd is %+v", status.Etcd)
	}
	w.pushAndWait(t, abort("moved", "frontend", "demo", 419, 100))
	if err := w.lab.Kill("boifi", "hfi-etcd-0", "etcd"); err != nil {
		t.Fatal(err)
	}
	w.pushAndWait(t, abort("moved", "frontend", "demo", 418, 100))
	w.kubectl(t, "-n", "boifi", "rollout", "status", "statefulset/hfi-etcd", "--timeout=55s")
	w.kubectl(t, "-n", "boifi", "scale", "statefulset/hfi-etcd", "--replicas=2")
	eventually(t, "two members of three", time.Minute, func() error {
		if left := w.kubectl(t, "-n", "boifi", "get", "pods", "-l", "app.kubernetes.io/name=hfi-etcd", "-o", "name"); strings.Count(left, "\n") != 2 {
			return fmt.Errorf("there are %q", left)
		}
		return nil
	})
	w.pushAndWait(t, abort("moved", "frontend", "demo", 419, 100))
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 419)
	}
}
