package istio

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"regexp"
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

// If it manages the WasmPlugin of a namespace, the daemon creates it when a policy
// targets the namespace, repairs it, and deletes it with the last policy.
func keepStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.install(t, []string{"external-etcd", "wasmplugin-manager"}, "HFID_ETCD_ENDPOINTS="+w.lab.Etcd.Endpoint, "HFID_KUBE_NAMESPACES=demo")
	defer w.installUsual(t)
	plugins := func() string {
		return w.kubectl(t, "-n", "demo", "get", "wasmplugins", "-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.url} {.spec.failStrategy}{"\n"}{end}`)
	}
	time.Sleep(3 * time.Second) // enough time to create one, which must not happen
	if made := plugins(); made != "" {
		t.Errorf("without a policy there is a WasmPlugin: %s", made)
	}
	w.push(t, abort("kept", "frontend", "demo", 418, 100))
	wanted := regexp.MustCompile(`^hfi http://hfi-control-plane\.boifi:8080/v1/filter/[0-9a-f]{64}\.wasm FAIL_OPEN\n$`)
	made := func() error {
		if text := plugins(); !wanted.MatchString(text) {
			return fmt.Errorf("there is %q", text)
		}
		return nil
	}
	took := eventually(t, "the WasmPlugin", time.Minute, made)
	t.Logf("the WasmPlugin was there %.1f s after the push", took.Seconds())
	w.untilAll(t, time.Now(), w.frontends(t), 418, 2*time.Minute)
	w.kubectl(t, "-n", "demo", "patch", "wasmplugin", "hfi", "--type=merge", "-p", `{"spec":{"failStrategy":"FAIL_CLOSE"}}`)
	eventually(t, "the repair", time.Minute, made)
	w.push(t)
	eventually(t, "the WasmPlugin is deleted", time.Minute, func() error {
		if text := plugins(); text != "" {
			return fmt.Errorf("there is %q", text)
		}
		return nil
	})
	events := w.kubectl(t, "-n", "demo", "get", "events")
	for _, word := range []string{"Created", "Repaired", "Pruned"} {
		if !strings.Contains(events, word) {
			t.Errorf("no Event says %s:\n%s", word, events)
		}
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
