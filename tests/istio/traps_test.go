//go:build linux

package istio

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/boifi/hfi/reconciler/kube"
)

const narrowSidecar = `
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: narrow, namespace: demo}
spec:
`

// With a Sidecar resource that hides the control plane from a namespace, requests
// pass, the filter's log and the WasmPlugin's status name the problem, and the
// guide's remedy solves it.
func sidecarStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("hidden", "*", "*", 418, 100))
	w.loadPlugin(t)
	guide, err := os.ReadFile(w.manifest("deploy/README.md"))
	if err != nil {
		t.Fatal(err)
	}
	remedy := regexp.MustCompile(`(?m)^egress:\n  - hosts: .*hfi-control-plane.*$`).Find(guide)
	if remedy == nil {
		t.Fatal("the guide has no egress that shows the control plane")
	}
	defer w.kubectl(t, "-n", "demo", "delete", "sidecar", "narrow", "--ignore-not-found")
	w.apply(t, narrowSidecar+"  egress: [{hosts: [\"./*\"]}]\n")
	w.kubectl(t, "-n", "demo", "rollout", "restart", "deployment/productcatalog")
	w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/productcatalog", "--timeout=55s")
	pod := w.catalog(t)
	eventually(t, "the filter's log says what is wrong", 2*time.Minute, func() error {
		if text := w.logs(t, "demo", pod.name, "istio-proxy"); !strings.Contains(text, "this Envoy has no cluster") || !strings.Contains(text, "Sidecar resource") {
			return fmt.Errorf("it does not mention the problem")
		}
		return nil
	})
	w.all(t, pod, 200)
	w.says(t, "hfi", "False", "NoContact", 2*time.Minute, pod.name)
	if story := w.kubectl(t, "-n", "demo", "describe", "wasmplugin", "hfi"); !strings.Contains(story, "NoContact") {
		t.Errorf("kubectl describe does not mention it:\n%s", story)
	}
	w.apply(t, narrowSidecar+"  "+strings.ReplaceAll(string(remedy), "\n", "\n  ")+"\n")
	took := eventually(t, "the policy in force", time.Minute, func() error { return pod.answersWith(418) })
	t.Logf("the policy was in force %.1f s after the Sidecar was corrected as the guide says", took.Seconds())
	w.awaitFilters(t)
	w.says(t, "hfi", "True", "Loaded", time.Minute, "loaded on 4 of 4 pods")
}

// injected has pods as different controllers create them.
var injected = map[string]string{
	"a Deployment's":                          `{generateName: a-5c8f9-, labels: {pod-template-hash: 5c8f9}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: a-5c8f9, uid: u, controller: true}]}`,
	"a ReplicaSet's":                          `{generateName: b-, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: b, uid: u, controller: true}]}`,
	"a StatefulSet's":                         `{name: c-0, generateName: c-, ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: c, uid: u, controller: true}]}`,
	"a DaemonSet's":                           `{generateName: d-, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: d, uid: u, controller: true}]}`,
	"a Job's":                                 `{generateName: e-, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: e, uid: u, controller: true}]}`,
	"a CronJob's":                             `{generateName: f-29384756-, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: f-29384756, uid: u, controller: true}]}`,
	"a Job's with digits":                     `{generateName: g-1234567-, ownerReferences: [{apiVersion: batch/v1, kind: Job, name: g-1234567, uid: u, controller: true}]}`,
	"an Argo Rollout's":                       `{generateName: h-6d7-, labels: {rollouts-pod-template-hash: 6d7}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: h-6d7, uid: u, controller: true}]}`,
	"a DeploymentConfig's":                    `{generateName: i-1-, labels: {deploymentconfig: i}, ownerReferences: [{apiVersion: v1, kind: ReplicationController, name: i-1, uid: u, controller: true}]}`,
	"without an owner, with a name":           `{name: j}`,
	"without an owner, with a generated name": `{generateName: k-}`,
	"an owner that is no controller":          `{generateName: l-, ownerReferences: [{apiVersion: apps/v1, kind: DaemonSet, name: boss, uid: u}]}`,
	"labelled otherwise":                      `{generateName: m-5c8f9-, labels: {pod-template-hash: 5c8f9, service.istio.io/workload-name: other}, ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: m-5c8f9, uid: u, controller: true}]}`,
	"with an app label":                       `{name: o, labels: {app: other, service.istio.io/canonical-name: third}}`,
}

// The daemon derives the same workload from a pod as Istio's injector puts into the
// sidecar's metadata, whatever created the pod.
func injectorStory(t *testing.T, w *world) {
	for what, metadata := range injected {
		t.Run(what, func(t *testing.T) {
			manifest := "apiVersion: v1\nkind: Pod\nmetadata: " + metadata + "\nspec: {containers: [{name: app, image: app}]}\n"
			text, err := w.lab.Kubectl(w.ctx, manifest, "-n", "demo", "create", "--dry-run=server", "-o", "yaml", "-f", "-")
			if err != nil {
				t.Fatal(err)
			}
			var pod corev1.Pod
			if err := yaml.Unmarshal([]byte(text), &pod); err != nil {
				t.Fatal(err)
			}
			said, sidecar := "", false
			for _, container := range append(pod.Spec.Containers, pod.Spec.InitContainers...) {
				if container.Name != "istio-proxy" {
					continue
				}
				sidecar = true
				for _, variable := range container.Env {
					if variable.Name == "ISTIO_META_WORKLOAD_NAME" {
						said = variable.Value
					}
				}
			}
			if !sidecar {
				t.Fatalf("the pod got no sidecar:\n%s", text)
			}
			if got := kube.WorkloadName(&pod.ObjectMeta); got != said {
				t.Errorf("the daemon derives workload %q, and the sidecar %q", got, said)
			}
		})
	}
}
