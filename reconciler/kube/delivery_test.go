package kube

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	extensions "istio.io/api/extensions/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubetesting "k8s.io/client-go/testing"

	"github.com/boifi/hfi/schema"
)

// desiredSpec decodes the spec of the plugin that hfi keeps for the workload
// frontend, in which every field must be known.
func desiredSpec(t *testing.T, f *family, by *delivery, into proto.Message) {
	t.Helper()
	c := New(Clients{})
	c.SHA256 = filterDigest
	c.by.Store(by)
	var err error
	if c.baseURL, err = parseControlPlane(c.ControlPlane); err != nil {
		t.Fatal(err)
	}
	desired := c.desired(f, "demo", f.pluginOf("frontend"), map[string]string{"app": "frontend"})
	if desired.GetKind() != by.kind || desired.GetAPIVersion() != by.resource.GroupVersion().String() {
		t.Errorf("it is a %s of %s", desired.GetKind(), desired.GetAPIVersion())
	}
	decodeSpec(t, desired, into)
	read := readPlugin(by, desired, c.baseURL)
	if read == nil || !read.managed || !read.ours || read.sha256 != filterDigest || !strings.HasSuffix(read.url, filterDigest+".wasm") ||
		read.controlPlane != "hfi-control-plane.boifi:8080" || !maps.Equal(read.selector, map[string]string{"app": "frontend"}) || read.targetsNoPods || read.family != f ||
		cmp.Or(read.direction, schema.Inbound) != f.setting {
		t.Errorf("a %s is read as %+v", by.kind, read)
	}
}

// decodeSpec decodes an object's spec, in which every field must be known.
func decodeSpec(t *testing.T, object *unstructured.Unstructured, into proto.Message) {
	t.Helper()
	text, err := json.Marshal(object.Object["spec"])
	if err != nil {
		t.Fatal(err)
	}
	if err := protojson.Unmarshal(text, into); err != nil {
		t.Fatalf("%s: %v", object.GetKind(), err)
	}
}

// What hfi creates has the fields of Istio's API, and is read as it was written.
func TestPluginsAreAsIstioWantsThem(t *testing.T) {
	for f, want := range map[*family]struct {
		mode    typev1beta1.WorkloadMode
		context networking.EnvoyFilter_PatchContext
	}{
		inbound:  {typev1beta1.WorkloadMode_SERVER, networking.EnvoyFilter_SIDECAR_INBOUND},
		outbound: {typev1beta1.WorkloadMode_CLIENT, networking.EnvoyFilter_SIDECAR_OUTBOUND},
		gateways: {typev1beta1.WorkloadMode_CLIENT, networking.EnvoyFilter_GATEWAY},
	} {
		var plugin extensions.WasmPlugin
		desiredSpec(t, f, wasmPlugins, &plugin)
		var extension extensions.TrafficExtension
		desiredSpec(t, f, trafficExtensions, &extension)
		wasm := extension.GetWasm()
		if plugin.Phase != extensions.PluginPhase_AUTHN || extension.Phase != extensions.TrafficExtension_AUTHN ||
			plugin.FailStrategy != extensions.FailStrategy_FAIL_OPEN || wasm.FailStrategy != extensions.FailStrategy_FAIL_OPEN ||
			plugin.Match[0].Mode != want.mode || extension.Match[0].Mode != want.mode || plugin.Url != wasm.Url || plugin.Sha256 != wasm.Sha256 ||
			!proto.Equal(plugin.PluginConfig, wasm.PluginConfig) || !proto.Equal(plugin.Selector, extension.Selector) {
			t.Errorf("WasmPlugin %v and TrafficExtension %v differ", &plugin, &extension)
		}
		var filter networking.EnvoyFilter
		desiredSpec(t, f, envoyFilters, &filter)
		if len(filter.ConfigPatches) != 2 || filter.WorkloadSelector.Labels["app"] != "frontend" {
			t.Fatalf("the EnvoyFilter is %v", &filter)
		}
		inserted, added := filter.ConfigPatches[0], filter.ConfigPatches[1]
		name := inserted.Patch.Value.Fields["name"].GetStringValue()
		if inserted.ApplyTo != networking.EnvoyFilter_HTTP_FILTER || inserted.Match.Context != want.context ||
			inserted.Patch.Operation != networking.EnvoyFilter_Patch_INSERT_FIRST || added.ApplyTo != networking.EnvoyFilter_EXTENSION_CONFIG || added.Match.Context != want.context ||
			added.Patch.Operation != networking.EnvoyFilter_Patch_ADD || added.Patch.Value.Fields["name"].GetStringValue() != name || name == "" {
			t.Errorf("the EnvoyFilter is %v", &filter)
		}
	}
}

// With --kube-delivery envoyfilter, the daemon keeps EnvoyFilters, and uses no WasmPlugin.
func TestEnvoyFiltersAreKept(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Delivery = DeliverByEnvoyFilter })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.keepsBy(t, envoyFilters)
	if rows := s.view(set).WasmPlugins; len(rows) != 1 || rows[0].Kind != "EnvoyFilter" || len(rows[0].Conditions) != 2 {
		t.Errorf("the status lists %+v", rows)
	}
	for _, action := range s.objects.Actions() {
		if action.GetResource() == wasmPlugins.resource && action.GetVerb() != "list" {
			t.Errorf("hfi sent %s wasmplugins", action.GetVerb())
		}
	}
	s.serve()
	s.eventually("it is deleted", func() bool { _, err := s.get(envoyFilters); return apierrors.IsNotFound(err) })
}

// Plugins that the daemon created before --kube-delivery was changed are
// reported, because their pods have two filters.
func TestPluginsOfAnotherDeliveryAreReported(t *testing.T) {
	s := newFixture(t, func(s *fixture) { s.Delivery = DeliverByEnvoyFilter }, ownPlugin(t), pluginObject("demo", "by-hand", nil))
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	message := func() string {
		rows := s.view(set).WasmPlugins
		if len(rows) == 0 {
			return ""
		}
		return rows[0].Message
	}
	s.eventually("the plugin is named", func() bool {
		return strings.Contains(message(), "WasmPlugin hfi-frontend is left from another --kube-delivery")
	})
	s.keepsBy(t, envoyFilters)
	if err := s.objects.Tracker().Delete(wasmPlugins.resource, "demo", frontPlugin); err != nil {
		t.Fatal(err)
	}
	s.advance(s.CheckEvery)
	s.eventually("once deleted, it is not", func() bool { return message() == "" })
}

// In a cluster without WasmPlugins the daemon keeps TrafficExtensions.
func TestTrafficExtensionsWhereWasmPluginIsGone(t *testing.T) {
	gone := apierrors.NewNotFound(wasmPlugins.resource.GroupResource(), "")
	s := newFixture(t, func(s *fixture) {
		for _, verb := range []string{"list", "watch", "create"} {
			s.failed[verb+" wasmplugins"] = gone
		}
	})
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.keepsBy(t, trafficExtensions)
	s.eventually("nothing is reported as wrong", func() bool { return s.view(set).Healthy })
}

// A cluster with neither kind is reported.
func TestClusterWithoutIstio(t *testing.T) {
	s := newFixture(t, func(s *fixture) {
		for _, by := range deliveries(DeliverByWasmPlugin) {
			s.failed["list "+by.resource.Resource] = apierrors.NewNotFound(by.resource.GroupResource(), "")
			s.failed["watch "+by.resource.Resource] = s.failed["list "+by.resource.Resource]
		}
	})
	s.eventually("the status says so", func() bool { return strings.Contains(s.view(nil).Error, "list wasmplugins") })
}

func (s *fixture) get(by *delivery) (labels map[string]string, err error) {
	object, err := s.objects.Resource(by.resource).Namespace("demo").Get(s.t.Context(), frontPlugin, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return by.read(object).selector, nil
}

// keepsBy waits for the plugin, damages it, and waits for the repair and the conditions.
func (s *fixture) keepsBy(t *testing.T, by *delivery) {
	t.Helper()
	selects := func() bool {
		labels, err := s.get(by)
		return err == nil && maps.Equal(labels, map[string]string{"app": "frontend"})
	}
	s.eventually("it is created", selects)
	object, err := s.objects.Resource(by.resource).Namespace("demo").Get(t.Context(), frontPlugin, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	delete(object.Object, "spec")
	if err := s.objects.Tracker().Update(by.resource, object, "demo"); err != nil {
		t.Fatal(err)
	}
	s.eventually("it is repaired", selects)
	s.eventually("its status is reported", func() bool {
		return slices.ContainsFunc(s.objects.Actions(), func(action kubetesting.Action) bool {
			return action.GetVerb() == "patch" && action.GetResource() == by.resource && action.GetSubresource() == "status"
		})
	})
}
