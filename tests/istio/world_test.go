//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/tests/istio/lab"
)

// world is the cluster with the daemon and two services in a mesh, installed as
// deploy/ describes.
type world struct {
	ctx  context.Context
	lab  *lab.Lab
	repo *gittest.Repo
	// server is the base URL of the Service of the control plane.
	server string
	// gitURL is the policy repository as pods reach it.
	gitURL string
	// programs is a folder with the command line hfi.
	programs string
	// module is the filter's module, and images has hfi's images for a registry.
	module []byte
	images v1.ImageIndex
}

// hostAddress is the address at which pods reach the machine of the tests.
const hostAddress = "10.244.0.1"

func newWorld(t *testing.T) *world {
	t.Helper()
	lab.Require(t)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w := &world{ctx: ctx, repo: gittest.New(t)}
	began := time.Now()
	step := func(what string) {
		t.Logf("%5.1f s  %s", time.Since(began).Seconds(), what)
	}
	w.repo.Commit("Begin", map[string]string{"policies/.keep": ""})
	w.repo.Push()
	programs, images := w.buildImages(t)
	w.programs = programs
	step("the images are built")
	cluster, err := lab.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w.lab = cluster
	w.gitURL = serve(t, gittest.ServeHTTP(t, w.repo, gittest.HTTP{}).URL)
	for name, image := range images {
		w.lab.AddImage(name, image)
	}
	step("the mesh is up")
	w.installControlPlane(t)
	step("the control plane is ready")
	w.installWorkloads(t)
	step("the workloads are ready")
	return w
}

// forward forwards requests to the server of a URL.
func forward(t *testing.T, to string) http.Handler {
	t.Helper()
	target, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	target.Path = ""
	return httputil.NewSingleHostReverseProxy(target)
}

// gitPort is where the git server listens.
func (w *world) gitPort() string {
	address, _ := url.Parse(w.gitURL)
	return address.Port()
}

// installControlPlane installs the daemon as for a user who already has an etcd.
func (w *world) installControlPlane(t *testing.T) {
	t.Helper()
	w.kubectl(t, "apply", "--validate=strict", "-f", w.manifest("deploy/kubernetes/base/namespace.yaml"))
	w.kubectl(t, "-n", "boifi", "create", "secret", "generic", "hfi-etcd-client",
		"--from-file=ca.crt="+w.lab.Etcd.CA, "--from-file=tls.crt="+w.lab.Etcd.Certificate, "--from-file=tls.key="+w.lab.Etcd.Key)
	key := filepath.Join(t.TempDir(), "state-key")
	if _, err := statekey.OpenOrCreate(key); err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "-n", "boifi", "create", "secret", "generic", "hfi-state-key", "--from-file=key="+key)
	began := time.Now()
	w.installUsual(t)
	t.Logf("both replicas were ready %.1f s after the manifests were applied", time.Since(began).Seconds())
	w.server = "http://" + strings.TrimSpace(w.kubectl(t, "-n", "boifi", "get", "service", "hfi-control-plane", "-o", "jsonpath={.spec.clusterIP}")) + ":8080"
}

// installUsual installs the daemon on the lab's external etcd.
func (w *world) installUsual(t *testing.T, settings ...string) {
	t.Helper()
	w.install(t, []string{"external-etcd"}, append([]string{"HFID_ETCD_ENDPOINTS=" + w.lab.Etcd.Endpoint}, settings...)...)
}

// install applies a kustomization on top of overlays of deploy/kubernetes, which
// sets the repository and more settings, and waits until the replicas run with
// them.
func (w *world) install(t *testing.T, overlays []string, settings ...string) {
	t.Helper()
	folder := t.TempDir()
	text := `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
`
	for _, overlay := range overlays {
		path, err := filepath.Rel(folder, w.manifest("deploy/kubernetes/overlays/"+overlay))
		if err != nil {
			t.Fatal(err)
		}
		text += "- " + path + "\n"
	}
	text += "configMapGenerator:\n- name: hfi-control-plane\n  namespace: boifi\n  behavior: merge\n  literals:\n  - HFID_REPO=" + w.gitURL + "\n"
	for _, setting := range settings {
		text += "  - " + setting + "\n"
	}
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	w.kubectl(t, "apply", "--validate=strict", "-k", folder)
	w.kubectl(t, "-n", "boifi", "rollout", "status", "deployment/hfi-control-plane", "--timeout=55s")
}

const workloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: demo}
spec:
  replicas: COUNT
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: app
        image: app
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 5}
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: demo}
spec:
  selector: {app: NAME}
  ports: [{name: http, port: 80, targetPort: http}]
`

func (w *world) installWorkloads(t *testing.T) {
	t.Helper()
	w.kubectl(t, "create", "namespace", "demo")
	w.kubectl(t, "label", "namespace", "demo", "istio-injection=enabled")
	for name, count := range map[string]string{"frontend": "3", "productcatalog": "1"} {
		w.apply(t, strings.NewReplacer("NAME", name, "COUNT", count).Replace(workloads))
	}
	for _, name := range []string{"frontend", "productcatalog"} {
		w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/"+name, "--timeout=55s")
	}
}

// kubectl runs kubectl as the cluster's administrator and returns its output.
func (w *world) kubectl(t testing.TB, arguments ...string) string {
	t.Helper()
	out, err := w.lab.Kubectl(w.ctx, "", arguments...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deleteNamespace deletes a namespace and waits until it is gone, which takes up to
// one and a half times as long as its pods take to end.
func (w *world) deleteNamespace(t testing.TB, name string) {
	t.Helper()
	w.kubectl(t, "delete", "namespace", name, "--wait=false")
	eventually(t, "the end of namespace "+name, 3*time.Minute, func() error {
		if found := w.kubectl(t, "get", "namespace", name, "--ignore-not-found", "-o", "jsonpath={.metadata.name} {.status.conditions}"); found != "" {
			return fmt.Errorf("it still exists: %s", found)
		}
		return nil
	})
}

// apply applies a manifest with strict validation.
func (w *world) apply(t testing.TB, manifest string) {
	t.Helper()
	if _, err := w.lab.Kubectl(w.ctx, manifest, "apply", "--validate=strict", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request to the control plane's Service and decodes the response.
func (w *world) ask(t testing.TB, path string, into any) {
	t.Helper()
	if err := w.tryAsk(path, into); err != nil {
		t.Fatal(err)
	}
}

func (w *world) tryAsk(path string, into any) error {
	response, err := client.Get(w.server + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %s", path, response.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// client opens a new connection for each request, so that each may reach another replica.
var client = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// eventually polls until there is no error, and returns how long that took.
func eventually(t testing.TB, what string, limit time.Duration, ask func() error) time.Duration {
	t.Helper()
	return testtool.Within(t, limit, what, ask)
}
