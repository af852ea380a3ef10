package deploy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	extensions "istio.io/api/extensions/v1alpha1"
	typev1beta1 "istio.io/api/type/v1beta1"
	"sigs.k8s.io/yaml"
)

// plugin is a WasmPlugin in a file.
type plugin struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec json.RawMessage `json:"spec"`
}

func readPlugin(t *testing.T, file string) (*plugin, *extensions.WasmPlugin) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("istio", file))
	if err != nil {
		t.Fatal(err)
	}
	var read plugin
	if err := yaml.UnmarshalStrict(text, &read); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	// Not Istio's own decoder, which ignores unknown fields.
	spec := &extensions.WasmPlugin{}
	if err := protojson.Unmarshal(read.Spec, spec); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return &read, spec
}

// The WasmPlugins have the fields that this filter requires.
func TestWasmPluginsAreValidForIstio(t *testing.T) {
	urls := map[string]string{
		"namespace.yaml": "http://hfi-control-plane.boifi:8080/v1/filter.wasm",
		"workload.yaml":  "oci://",
		"outbound.yaml":  "http://hfi-control-plane.boifi:8080/v1/filter.wasm",
	}
	for file, url := range urls {
		mode, direction := typev1beta1.WorkloadMode_SERVER, ""
		if file == "outbound.yaml" {
			mode, direction = typev1beta1.WorkloadMode_CLIENT, "outbound"
		}
		read, spec := readPlugin(t, file)
		if read.APIVersion != "extensions.istio.io/v1alpha1" || read.Kind != "WasmPlugin" || read.Metadata.Namespace != "demo" {
			t.Errorf("%s is a %s %s in %s", file, read.APIVersion, read.Kind, read.Metadata.Namespace)
		}
		if spec.Phase != extensions.PluginPhase_AUTHN || spec.FailStrategy != extensions.FailStrategy_FAIL_OPEN {
			t.Errorf("%s: phase %s, failStrategy %s", file, spec.Phase, spec.FailStrategy)
		}
		if given := spec.PluginConfig.GetFields()["direction"].GetStringValue(); given != direction {
			t.Errorf("%s is for requests %q", file, given)
		}
		if len(spec.Match) != 1 || spec.Match[0].Mode != mode {
			t.Errorf("%s matches %v", file, spec.Match)
		}
		if !strings.HasPrefix(spec.Url, url) {
			t.Errorf("%s loads %s", file, spec.Url)
		}
		if address := spec.PluginConfig.GetFields()["control_plane_address"].GetStringValue(); address != "hfi-control-plane.boifi:8080" {
			t.Errorf("%s asks %q for policies", file, address)
		}
		if selects := file != "namespace.yaml"; selects != (len(spec.Selector.GetMatchLabels()) > 0) {
			t.Errorf("%s selects %v", file, spec.Selector)
		}
	}
	// The decoder refuses unknown fields.
	if err := protojson.Unmarshal([]byte(`{"url": "oci://x", "failstrategy": "FAIL_OPEN"}`), &extensions.WasmPlugin{}); err == nil {
		t.Error("an unknown field was accepted")
	}
}
