// Package deploy_test checks the manifests: kustomize builds them, Kubernetes and
// Istio accept every field, and the daemon accepts every setting.
package deploy_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// kustomizations are the folders that a user may apply.
var kustomizations = []string{"base", "overlays/etcd", "overlays/external-etcd", "overlays/wasmplugin-manager", "overlays/envoyfilter-manager", "example"}

// object is the metadata of every Kubernetes object.
type object interface {
	runtime.Object
	GetName() string
	GetNamespace() string
}

// built returns the objects that kustomize builds from a folder. Unknown fields fail the test.
func built(t *testing.T, folder string) []object {
	t.Helper()
	return kustomize(t, filepath.Join("kubernetes", folder))
}

// kustomize does what "kubectl kustomize FOLDER" does.
func kustomize(t *testing.T, folder string) []object {
	t.Helper()
	var objects []object
	for _, text := range kustomizedText(t, folder) {
		objects = append(objects, decode(t, text))
	}
	return objects
}

// kustomizedText is the objects as YAML.
func kustomizedText(t *testing.T, folder string) (texts [][]byte) {
	t.Helper()
	resources, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		t.Fatalf("kustomize build %s: %v", folder, err)
	}
	for _, resource := range resources.Resources() {
		text, err := resource.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	return texts
}

var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, rbacv1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}()

func decode(t *testing.T, text []byte) object {
	t.Helper()
	decoded, _, err := codecs.UniversalDeserializer().Decode(text, nil, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return decoded.(object)
}

// only returns the object of a type and name. There must be exactly one.
func only[T object](t *testing.T, objects []object, name string) T {
	t.Helper()
	var found []T
	for _, o := range objects {
		if typed, ok := o.(T); ok && typed.GetName() == name {
			found = append(found, typed)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d objects of type %T are named %s, want 1", len(found), *new(T), name)
	}
	return found[0]
}

// settings returns the daemon's environment variables, from the Deployment and its ConfigMap.
func settings(t *testing.T, objects []object) map[string]string {
	t.Helper()
	container := only[*appsv1.Deployment](t, objects, "hfi-control-plane").Spec.Template.Spec.Containers[0]
	found := map[string]string{}
	for _, from := range container.EnvFrom {
		for name, value := range only[*corev1.ConfigMap](t, objects, from.ConfigMapRef.Name).Data {
			found[name] = value
		}
	}
	for _, variable := range container.Env {
		found[variable.Name] = variable.Value
	}
	return found
}

// Every kustomization builds, without unknown fields and duplicates.
func TestEveryKustomizationBuildsWithKnownFieldsOnly(t *testing.T) {
	for _, folder := range kustomizations {
		t.Run(folder, func(t *testing.T) {
			objects := built(t, folder)
			if len(objects) == 0 {
				t.Fatal("nothing was built")
			}
			seen := map[string]bool{}
			for _, o := range objects {
				name := fmt.Sprintf("%s %s/%s", o.GetObjectKind().GroupVersionKind().Kind, o.GetNamespace(), o.GetName())
				if seen[name] {
					t.Errorf("%s is a duplicate", name)
				}
				seen[name] = true
			}
		})
	}
	// The decoder refuses unknown fields.
	text, err := os.ReadFile("kubernetes/base/service.yaml")
	if err != nil {
		t.Fatal(err)
	}
	misspelt := bytes.Replace(text, []byte("targetPort:"), []byte("targetport:"), 1)
	if _, _, err := codecs.UniversalDeserializer().Decode(misspelt, nil, nil); err == nil {
		t.Error("an unknown field was accepted")
	}
}

// There are two replicas behind the Service, with probes, on different nodes, and with a disruption budget.
func TestTheDaemonRunsAsPromised(t *testing.T) {
	for _, folder := range []string{"base", "overlays/etcd", "overlays/external-etcd", "example"} {
		t.Run(folder, func(t *testing.T) {
			objects := built(t, folder)
			only[*corev1.Namespace](t, objects, "boifi")
			deployment := only[*appsv1.Deployment](t, objects, "hfi-control-plane")
			if deployment.Namespace != "boifi" || *deployment.Spec.Replicas != 2 {
				t.Errorf("%d replicas in %s, want 2 in boifi", *deployment.Spec.Replicas, deployment.Namespace)
			}
			pod := deployment.Spec.Template
			container := pod.Spec.Containers[0]
			if live, ready := container.LivenessProbe.HTTPGet, container.ReadinessProbe.HTTPGet; live.Path != "/health" || ready.Path != "/ready" {
				t.Errorf("the probes ask %s and %s", live.Path, ready.Path)
			}
			service := only[*corev1.Service](t, objects, "hfi-control-plane")
			if port := service.Spec.Ports[0]; port.Port != 8080 || port.Name != "http" {
				t.Errorf("the Service's port is %s %d", port.Name, port.Port)
			}
			budget := only[*policyv1.PodDisruptionBudget](t, objects, "hfi-control-plane")
			if budget.Spec.MinAvailable.IntValue() != 1 {
				t.Errorf("the PodDisruptionBudget keeps %v", budget.Spec.MinAvailable)
			}
			network := only[*networkingv1.NetworkPolicy](t, objects, "hfi-control-plane")
			selectors := []map[string]string{service.Spec.Selector, deployment.Spec.Selector.MatchLabels, budget.Spec.Selector.MatchLabels,
				network.Spec.PodSelector.MatchLabels, pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchLabels}
			for _, selector := range selectors {
				if len(selector) == 0 || !selects(selector, pod.Labels) {
					t.Errorf("the selector %v misses the pod's labels %v", selector, pod.Labels)
				}
			}
			set := settings(t, objects)
			if set["HFID_ETCD_ENDPOINTS"] == "" {
				t.Error("each replica would run its embedded etcd")
			}
			if set["HFID_ADVERTISE"] != "http://$(POD_IP):8080" || set["HFID_REPLICA_ID"] != "$(POD_NAME)" {
				t.Errorf("replicas advertise %q as %q", set["HFID_ADVERTISE"], set["HFID_REPLICA_ID"])
			}
			at := slices.IndexFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "state-key" })
			if at < 0 || filepath.Dir(set["HFID_STATE_KEY_FILE"]) != container.VolumeMounts[at].MountPath {
				t.Errorf("the state key %q is not mounted", set["HFID_STATE_KEY_FILE"])
			}
			for _, volume := range pod.Spec.Volumes {
				if volume.Name == "state-key" && (volume.Secret.SecretName != "hfi-state-key" || *volume.Secret.DefaultMode != 0o400 || volume.Secret.Optional != nil) {
					t.Errorf("the state key is mounted as %+v", volume.Secret)
				}
			}
			restricted(t, pod.Spec)
		})
	}
}

// The overlay's etcd is a cluster of three members with its pods' names.
func TestTheEtcdOverlayNamesItsMembers(t *testing.T) {
	objects := built(t, "overlays/etcd")
	set := only[*appsv1.StatefulSet](t, objects, "hfi-etcd")
	service := only[*corev1.Service](t, objects, set.Spec.ServiceName)
	if service.Spec.ClusterIP != "None" || !service.Spec.PublishNotReadyAddresses || !selects(service.Spec.Selector, set.Spec.Template.Labels) {
		t.Errorf("members cannot resolve each other with %+v", service.Spec)
	}
	var members, endpoints []string
	for i := range int(*set.Spec.Replicas) {
		host := fmt.Sprintf("%s-%d.%s", set.Name, i, service.Name)
		members = append(members, fmt.Sprintf("%s-%d=http://%s:2380", set.Name, i, host))
		endpoints = append(endpoints, fmt.Sprintf("http://%s:2379", host))
	}
	if len(members) != 3 || !slices.Contains(set.Spec.Template.Spec.Containers[0].Command, "--initial-cluster="+strings.Join(members, ",")) {
		t.Errorf("the members are not %v: %v", members, set.Spec.Template.Spec.Containers[0].Command)
	}
	if got := settings(t, objects)["HFID_ETCD_ENDPOINTS"]; got != strings.Join(endpoints, ",") {
		t.Errorf("the daemon asks %s, want %v", got, endpoints)
	}
	restricted(t, set.Spec.Template.Spec)
}

// The settings for an external etcd name files of the mounted Secret.
func TestTheExternalEtcdOverlayMountsWhatItNames(t *testing.T) {
	objects := built(t, "overlays/external-etcd")
	container := only[*appsv1.Deployment](t, objects, "hfi-control-plane").Spec.Template.Spec.Containers[0]
	at := slices.IndexFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == "etcd" })
	if at < 0 {
		t.Fatal("no volume for the client's certificate")
	}
	set := settings(t, objects)
	for _, name := range []string{"HFID_ETCD_CA_FILE", "HFID_ETCD_CERT_FILE", "HFID_ETCD_KEY_FILE"} {
		if filepath.Dir(set[name]) != container.VolumeMounts[at].MountPath {
			t.Errorf("%s is %q, outside of %s", name, set[name], container.VolumeMounts[at].MountPath)
		}
	}
}

// In a copy of the example with the manager's overlay beside the daemon's, all
// objects of the daemon are in boifi, and the right to manage WasmPlugins is in
// its own namespace.
func TestTheManagerMayStandInTheExample(t *testing.T) {
	const overlay = "  - ../overlays/etcd\n"
	text, err := os.ReadFile("kubernetes/example/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(overlay)) {
		t.Fatalf("the example has no %q", overlay)
	}
	objects := kustomize(t, copied(t, strings.Replace(string(text), overlay, overlay+"  - ../overlays/wasmplugin-manager\n", 1)))
	if binding := only[*rbacv1.RoleBinding](t, objects, "hfi-wasmplugin-manager"); binding.Namespace != "demo" || binding.Subjects[0].Namespace != "boifi" {
		t.Errorf("an account in %s gets the right in %s, want an account in boifi and demo", binding.Subjects[0].Namespace, binding.Namespace)
	}
	for _, o := range objects {
		switch o.(type) {
		case *rbacv1.RoleBinding, *rbacv1.ClusterRole, *rbacv1.ClusterRoleBinding, *corev1.Namespace:
		default:
			if o.GetNamespace() != "boifi" {
				t.Errorf("%T %s is in namespace %q", o, o.GetName(), o.GetNamespace())
			}
		}
	}
	if got := settings(t, objects)["HFID_GIT_TOKEN_FILE"]; got == "" {
		t.Error("the example's settings did not reach the daemon")
	}
}

// As the overlay's comment says, a separate kustomization grants the permission in another namespace.
func TestTheManagerMayBeGivenAnotherNamespace(t *testing.T) {
	objects := kustomize(t, copied(t, "namespace: shop\nresources: [../overlays/wasmplugin-manager]\n"))
	if binding := only[*rbacv1.RoleBinding](t, objects, "hfi-wasmplugin-manager"); binding.Namespace != "shop" || binding.Subjects[0].Namespace != "boifi" {
		t.Errorf("an account in %s gets the right in %s, want an account in boifi and shop", binding.Subjects[0].Namespace, binding.Namespace)
	}
}

// copied returns a folder elsewhere with a kustomization that was written for a folder beside kubernetes/overlays.
func copied(t *testing.T, text string) string {
	t.Helper()
	folder, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	overlays, err := filepath.Abs("kubernetes/overlays")
	if err != nil {
		t.Fatal(err)
	}
	if overlays, err = filepath.Rel(folder, overlays); err != nil {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "../overlays", overlays)
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return folder
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return true
}

// restricted checks that a pod meets Kubernetes' Pod Security Standard
// "restricted" and has a read-only root file system.
func restricted(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	if s := pod.SecurityContext; s == nil || !*s.RunAsNonRoot || *s.RunAsUser == 0 || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %+v", s)
	}
	for _, container := range pod.Containers {
		s := container.SecurityContext
		if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("the security context of %s is %+v", container.Name, s)
		}
		if container.Resources.Requests.Cpu().IsZero() || container.Resources.Requests.Memory().IsZero() || container.Resources.Limits.Memory().IsZero() {
			t.Errorf("the resources of %s are %+v", container.Name, container.Resources)
		}
	}
}
