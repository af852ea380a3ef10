package kube

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubeschema "k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Values of Cluster.Delivery.
const (
	// DeliverByWasmPlugin uses Istio's WasmPlugin or, in a cluster that has no
	// such kind any more, TrafficExtension, its successor since Istio 1.30.
	DeliverByWasmPlugin = "wasmplugin"
	// DeliverByEnvoyFilter uses Istio's EnvoyFilter, for meshes that refuse WasmPlugins.
	DeliverByEnvoyFilter = "envoyfilter"
)

// Deliveries are the valid values of Cluster.Delivery.
func Deliveries() []string { return []string{DeliverByWasmPlugin, DeliverByEnvoyFilter} }

// delivery is a kind of Istio's objects by which sidecars get the filter. The
// objects of each kind are called plugins here.
type delivery struct {
	kind     string
	resource kubeschema.GroupVersionResource
	// spec returns the spec of the plugin that hfi keeps.
	spec func(p desiredPlugin) map[string]any
	// read reads a plugin's spec; what it lacks is empty.
	read func(object *unstructured.Unstructured) pluginSpec
}

// desiredPlugin is what a plugin that hfi keeps says.
type desiredPlugin struct {
	family          *family
	namespace, name string
	// selector has the labels of the pods; empty are all of the namespace.
	selector             map[string]string
	url, sha256, address string
}

// pluginSpec is what is read of a plugin's spec.
type pluginSpec struct {
	url, sha256, controlPlane string
	// direction is the filter's setting; empty is the default.
	direction schema.Direction
	// pullSecret is set if sidecars have credentials for the registry.
	pullSecret bool
	selector   map[string]string
	// targetsNoPods is set if it is for something else than pods of the namespace, such as a Service.
	targetsNoPods bool
	// inGateways is set if gateways that it selects use it.
	inGateways bool
	// inWaypoints is set if a waypoint that it refers to uses it.
	inWaypoints bool
	// further are the families of further modules in an EnvoyFilter, without unknown.
	further []*family
	// receives and sends are set for a WasmPlugin that is for requests that workloads receive or
	// send. A filter of the other direction faults those too.
	receives, sends bool
}

var (
	wasmPlugins = &delivery{
		kind:     "WasmPlugin",
		resource: kubeschema.GroupVersionResource{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "wasmplugins"},
		spec: func(p desiredPlugin) map[string]any {
			return withSelector(p, placed(p, p.wasm()))
		},
		read: func(object *unstructured.Unstructured) pluginSpec { return readWasm(object, "spec") },
	}
	trafficExtensions = &delivery{
		kind:     "TrafficExtension",
		resource: kubeschema.GroupVersionResource{Group: "extensions.istio.io", Version: "v1alpha1", Resource: "trafficextensions"},
		spec: func(p desiredPlugin) map[string]any {
			return withSelector(p, placed(p, map[string]any{"wasm": p.wasm()}))
		},
		read: func(object *unstructured.Unstructured) pluginSpec { return readWasm(object, "spec", "wasm") },
	}
	envoyFilters = &delivery{
		kind:     "EnvoyFilter",
		resource: kubeschema.GroupVersionResource{Group: "networking.istio.io", Version: "v1alpha3", Resource: "envoyfilters"},
		spec:     envoyFilterSpec,
		read:     readEnvoyFilter,
	}
)

// deliveries are the kinds for a value of Cluster.Delivery, the preferred first.
func deliveries(by string) []*delivery {
	if by == DeliverByEnvoyFilter {
		return []*delivery{envoyFilters}
	}
	return []*delivery{wasmPlugins, trafficExtensions}
}

func (d *delivery) apiVersion() string { return d.resource.GroupVersion().String() }

// wasm returns the part that WasmPlugin and TrafficExtension have in common.
func (p desiredPlugin) wasm() map[string]any {
	return map[string]any{
		"url": p.url, "sha256": p.sha256,
		// Requests pass if the filter fails.
		"failStrategy": "FAIL_OPEN",
		"pluginConfig": p.family.config(p.address),
	}
}

// placed says where in the filter chain the filter is.
func placed(p desiredPlugin, spec map[string]any) map[string]any {
	// Before Istio's own filters.
	spec["phase"] = "AUTHN"
	// Requests of one direction only: by default Istio adds the filter to both.
	spec["match"] = []any{map[string]any{"mode": p.family.mode}}
	return spec
}

func withSelector(p desiredPlugin, spec map[string]any) map[string]any {
	if name := targetedGateway(p.selector); name != "" && p.family.apart {
		spec["targetRefs"] = targetRefs(name)
	} else if len(p.selector) > 0 {
		spec["selector"] = map[string]any{"matchLabels": labelsOf(p.selector)}
	}
	return spec
}

const gatewayGroup = "gateway.networking.k8s.io"

// targetRefs refers to a Gateway.
func targetRefs(name string) []any {
	return []any{map[string]any{"group": gatewayGroup, "kind": "Gateway", "name": name}}
}

// targetedGateway is the name of the Gateway of Kubernetes's Gateway API whose pods a selector
// selects, or "". Istio may ignore the selectors of plugins for those, does for waypoints, and wants targetRefs.
func targetedGateway(selector map[string]string) string {
	if len(selector) != 1 {
		return ""
	}
	return selector[labelGateway]
}

func labelsOf(selector map[string]string) map[string]any {
	labels := map[string]any{}
	for name, value := range selector {
		labels[name] = value
	}
	return labels
}

// readWasm reads a WasmPlugin or a TrafficExtension, which has the module's fields at a path.
func readWasm(object *unstructured.Unstructured, path ...string) (spec pluginSpec) {
	text := func(fields ...string) string {
		value, _, _ := unstructured.NestedString(object.Object, append(slices.Clone(path), fields...)...)
		return value
	}
	spec.url, spec.sha256 = text("url"), strings.ToLower(text("sha256"))
	spec.controlPlane = text("pluginConfig", "control_plane_address")
	spec.direction = schema.Direction(text("pluginConfig", "direction"))
	spec.pullSecret = text("imagePullSecret") != ""
	spec.selector, _, _ = unstructured.NestedStringMap(object.Object, "spec", "selector", "matchLabels")
	references, _, _ := unstructured.NestedSlice(object.Object, "spec", "targetRefs")
	single, found, _ := unstructured.NestedMap(object.Object, "spec", "targetRef")
	if found {
		references = append(references, single)
	}
	targetsGateway := spec.target(references)
	modes, _, _ := unstructured.NestedSlice(object.Object, "spec", "match")
	if len(modes) == 0 {
		modes = []any{nil} // both
	}
	for _, each := range modes {
		match, _ := each.(map[string]any)
		spec.receives = spec.receives || match["mode"] != "CLIENT"
		spec.sends = spec.sends || match["mode"] != "SERVER"
	}
	// Only requests that workloads receive pass through gateways unnoticed.
	spec.inGateways = spec.sends
	spec.inWaypoints = spec.receives && targetsGateway
	return spec
}

// target reads the targetRefs of a plugin, and says whether they are one Gateway. Those are its pods' label.
func (s *pluginSpec) target(references []any) (gateway bool) {
	if len(references) == 1 {
		reference, _ := references[0].(map[string]any)
		if name, _ := reference["name"].(string); reference["group"] == gatewayGroup && reference["kind"] == "Gateway" && name != "" {
			s.selector = map[string]string{labelGateway: name}
			return true
		}
	}
	s.targetsNoPods = len(references) > 0
	return false
}

const (
	typeWasmFilter = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"
	typeString     = "type.googleapis.com/google.protobuf.StringValue"
	// waypointListener is the listener of a waypoint in which requests are assigned to services. What
	// its other listeners receive are tunnels.
	waypointListener = "main_internal"
)

// envoyFilterSpec returns an EnvoyFilter that makes istiod send what it sends
// for a WasmPlugin: a filter whose configuration comes by ECDS. Istio's agent
// replaces a module's URL in such a configuration by the path of the module that
// it has downloaded and checked, for whichever object istiod made it. A URL
// within the listener itself would reach Envoy, which cannot fetch it without a
// cluster for the daemon's address.
func envoyFilterSpec(p desiredPlugin) map[string]any {
	name := "hfi/" + p.namespace + "." + p.name
	settings, err := json.Marshal(p.family.config(p.address))
	if err != nil {
		settings = nil // Text can always be encoded.
	}
	listener := map[string]any{"filterChain": map[string]any{"filter": map[string]any{"name": "envoy.filters.network.http_connection_manager"}}}
	if p.family == waypoints {
		listener["name"] = waypointListener
	}
	patches := []any{
		map[string]any{
			"applyTo": "HTTP_FILTER",
			"match":   map[string]any{"context": p.family.context, "listener": listener},
			"patch": map[string]any{
				// Before Istio's own filters.
				"operation": "INSERT_FIRST",
				"value": map[string]any{"name": name, "config_discovery": map[string]any{
					// The listener waits for the module, as with a WasmPlugin, so that no request passes without it.
					"config_source": map[string]any{"ads": map[string]any{}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
					"type_urls":     []any{typeWasmFilter, "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"},
				}},
			},
		},
		map[string]any{
			"applyTo": "EXTENSION_CONFIG",
			"match":   map[string]any{"context": p.family.context},
			"patch": map[string]any{
				"operation": "ADD",
				"value": map[string]any{"name": name, "typed_config": map[string]any{"@type": typeWasmFilter, "config": map[string]any{
					"name": p.namespace + "." + p.name,
					// Requests pass if the filter fails. Envoy before 1.33 does not know failure_policy.
					"fail_open":     true,
					"configuration": map[string]any{"@type": typeString, "value": string(settings)},
					"vm_config": map[string]any{"runtime": "envoy.wasm.runtime.v8", "code": map[string]any{"remote": map[string]any{
						// Istio's agent uses no cluster, and Envoy's API requires one.
						"http_uri": map[string]any{"uri": p.url, "timeout": "30s", "cluster": "_"}, "sha256": p.sha256,
					}}},
				}}},
			},
		},
	}
	if p.family == waypoints {
		patches = append(patches, clusterPatch(p))
		return map[string]any{"configPatches": patches, "targetRefs": targetRefs(targetedGateway(p.selector))}
	}
	spec := map[string]any{"configPatches": patches}
	if len(p.selector) > 0 {
		spec["workloadSelector"] = map[string]any{"labels": labelsOf(p.selector)}
	}
	return spec
}

// clusterPatch adds a cluster for the control plane, of a name that the filter tries. Of the mesh's
// services, istiod gives a waypoint only those that use it, and those that the mesh's settings name. A
// reference in an annotation would do from Istio 1.26 on.
func clusterPatch(p desiredPlugin) map[string]any {
	host, port, _ := strings.Cut(p.address, ":")
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		number = 0 // It is from a valid URL.
	}
	return map[string]any{
		"applyTo": "CLUSTER",
		"match":   map[string]any{"context": p.family.context},
		"patch": map[string]any{
			"operation": "ADD",
			"value": map[string]any{
				"name": p.address, "type": "STRICT_DNS", "connect_timeout": "5s",
				"load_assignment": map[string]any{"cluster_name": p.address, "endpoints": []any{map[string]any{
					"lb_endpoints": []any{map[string]any{"endpoint": map[string]any{"address": map[string]any{
						"socket_address": map[string]any{"address": host, "port_value": number}}}}}}}},
			},
		},
	}
}

// readEnvoyFilter reads the module of the first patch that has one, and of others with the same
// control plane the families.
func readEnvoyFilter(object *unstructured.Unstructured) (spec pluginSpec) {
	spec.selector, _, _ = unstructured.NestedStringMap(object.Object, "spec", "workloadSelector", "labels")
	references, _, _ := unstructured.NestedSlice(object.Object, "spec", "targetRefs")
	targetsGateway := spec.target(references)
	patches, _, _ := unstructured.NestedSlice(object.Object, "spec", "configPatches")
	found := false
	for _, each := range patches {
		patch, _ := each.(map[string]any)
		context, _, _ := unstructured.NestedString(patch, "match", "context")
		spec.inGateways = spec.inGateways || context == "" || context == "ANY" || context == "GATEWAY"
		spec.inWaypoints = targetsGateway && (spec.inWaypoints || context == "" || context == "ANY" || context == "SIDECAR_INBOUND")
		config, _, _ := unstructured.NestedMap(patch, "patch", "value", "typed_config", "config")
		if config == nil {
			continue
		}
		text := func(fields ...string) string {
			value, _, _ := unstructured.NestedString(config, fields...)
			return value
		}
		var settings struct {
			Address   string           `json:"control_plane_address"`
			Direction schema.Direction `json:"direction"`
		}
		valid := json.Unmarshal([]byte(text("configuration", "value")), &settings) == nil
		switch {
		case !found:
			found = true
			spec.url = text("vm_config", "code", "remote", "http_uri", "uri")
			spec.sha256 = strings.ToLower(text("vm_config", "code", "remote", "sha256"))
			if valid {
				spec.controlPlane, spec.direction = settings.Address, settings.Direction
			}
		case valid && settings.Address == spec.controlPlane:
			if f := familyOfDirection(settings.Direction); f != unknown && !slices.Contains(spec.further, f) {
				spec.further = append(spec.further, f)
			}
		}
	}
	return spec
}

// desired is the plugin of a family that hfi keeps for a workload's pods or, without a
// selector, for those of a namespace.
func (c *Cluster) desired(f *family, namespace, name string, selector map[string]string) *unstructured.Unstructured {
	port := c.baseURL.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[c.baseURL.Scheme]
	}
	by := c.delivery()
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": by.apiVersion(),
		"kind":       by.kind,
		"metadata": map[string]any{
			"name": name, "namespace": namespace,
			"labels": map[string]any{labelManagedBy: managedBy, labelPartOf: "hfi"},
		},
		"spec": by.spec(desiredPlugin{
			family: f, namespace: namespace, name: name, selector: maps.Clone(selector),
			url: strings.TrimSuffix(c.ControlPlane, "/") + api.FilterModulePath(c.SHA256), sha256: c.SHA256,
			address: fmt.Sprintf("%s:%s", c.baseURL.Hostname(), port),
		}),
	}}
}
