package kube

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// PluginName is the name of the plugin that hfi creates for all pods of a
// namespace. That for a workload has the workload's name after it.
const PluginName = "hfi"

// maxName is the longest name of a Kubernetes object.
const maxName = 253

// family is the plugins for the policies of one kind. Those of a family are planned
// without regard to those of others, which are for other requests of the same pods.
type family struct {
	// name is that of the plugin for all pods of a namespace. That for a workload
	// has the workload's name after it.
	name string
	// prefix is that of the keys of its workloads in a podStore, which is empty for workloads proper.
	prefix string
	// apart is set if there is no plugin for all pods, but one for each workload.
	apart bool
	// serves says whether a policy needs plugins of this family.
	serves func(*schema.Policy) bool
	// direction is that of the requests, as filters report it.
	direction schema.Direction
	// setting is the filter's setting direction, which tells the plugins of others apart. It
	// is left out if it is the default.
	setting schema.Direction
	// purpose introduces the messages of the family, unless they are for inbound requests.
	purpose string
	// mode is that of a WasmPlugin's traffic, and context that of an EnvoyFilter's patches.
	mode, context string
}

var (
	// inbound is for the requests that workloads receive.
	inbound = &family{
		name: PluginName, serves: func(policy *schema.Policy) bool { return !policy.Outbound() && policy.Spec.Selector.Gateway == "" },
		direction: schema.Inbound, setting: schema.Inbound, mode: "SERVER", context: "SIDECAR_INBOUND",
	}
	// outbound is for the requests that workloads send.
	outbound = &family{
		name: PluginName + ".outbound", serves: func(policy *schema.Policy) bool { return policy.Outbound() && policy.Spec.Selector.Gateway == "" },
		direction: schema.Outbound, setting: schema.Outbound, purpose: "for outbound requests", mode: "CLIENT", context: "SIDECAR_OUTBOUND",
	}
	// gateways is for the requests that pass through Istio's gateways. To Istio, these are
	// requests that a gateway sends. A plugin for all pods would fault what the workloads
	// of the namespace send, so each gateway has its own, and its filter injects nothing elsewhere.
	gateways = &family{
		name: PluginName + ".gateway", prefix: gatewayPrefix, apart: true, serves: func(policy *schema.Policy) bool { return policy.Spec.Selector.Gateway != "" },
		direction: schema.Inbound, setting: "gateway", purpose: "for gateways", mode: "CLIENT", context: "GATEWAY",
	}
	// waypoints is for the requests to services of Istio's ambient mode, which pass through a
	// waypoint. Its policies are those of inbound. No plugin for all pods applies in a waypoint.
	waypoints = &family{
		name: PluginName + ".waypoint", prefix: waypointPrefix, apart: true, serves: inbound.serves,
		direction: schema.Inbound, setting: schema.Inbound, purpose: "for waypoints", mode: "SERVER", context: "SIDECAR_INBOUND",
	}
)

// unknown is of plugins that hfi did not create and whose filters inject nothing, because
// they do not know the direction. It has no policies.
var unknown = &family{}

// families are all families but unknown. No name that one may want to use is another's too, and each
// policy has one, and waypoints besides inbound.
var families = []*family{inbound, outbound, gateways, waypoints}

// familyOfDirection is the family of a plugin that hfi did not create, by its filter's setting.
func familyOfDirection(direction schema.Direction) *family {
	for _, f := range families {
		if f.setting == cmp.Or(direction, schema.Inbound) {
			return f
		}
	}
	return unknown
}

// familyOfPolicy is the family that serves a policy; for one of waypoints, too, it is inbound.
func familyOfPolicy(policy *schema.Policy) *family {
	return families[slices.IndexFunc(families, func(f *family) bool { return f.serves(policy) })]
}

// config is the filter's configuration.
func (f *family) config(address string) map[string]any {
	config := map[string]any{"control_plane_address": address}
	if f.setting != schema.Inbound {
		config["direction"] = string(f.setting)
	}
	return config
}

// labelled returns the messages of the family, without duplicates. The first says which family
// they are of.
func (f *family) labelled(messages []string) (labelled []string) {
	for _, message := range messages {
		if !slices.Contains(labelled, message) {
			labelled = append(labelled, message)
		}
	}
	if len(labelled) > 0 && f.purpose != "" {
		labelled[0] = f.purpose + ": " + labelled[0]
	}
	return labelled
}

// has says whether plugins of the family are for a workload, by its key in a podStore.
func (f *family) has(workload string) bool {
	kind, _, proxy := strings.Cut(workload, "/")
	if !proxy {
		return f.prefix == ""
	}
	return kind+"/" == f.prefix
}

// key is the selection key of a workload of the family, or of any, in a namespace.
// Those of all waypoints of a namespace are one.
func (f *family) key(workload, namespace string) selection.Key {
	switch f {
	case gateways:
		return selection.Key{Service: schema.Any, Namespace: namespace, Gateway: strings.TrimPrefix(workload, gatewayPrefix)}
	case waypoints:
		return selection.Key{Service: selection.EachService, Namespace: namespace}
	}
	return selection.Key{Service: workload, Namespace: namespace}
}

// workload is the key in a podStore of the workload that a selection key names, or Any.
func (f *family) workload(key selection.Key) string {
	switch {
	case f != gateways:
		return key.Service
	case key.Gateway == schema.Any:
		return schema.Any
	}
	return gatewayPrefix + key.Gateway
}

// pluginOf is the name of a workload's plugin. A workload's name may come
// from a label: if it is no valid name of an object, or too long, a part of its
// digest makes it one that no other workload has.
func (f *family) pluginOf(workload string) string {
	workload = strings.TrimPrefix(workload, f.prefix)
	name := f.name + "-" + workload
	if len(name) <= maxName && len(content.IsDNS1123Subdomain(name)) == 0 {
		return name
	}
	valid := f.name + "-" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(workload))
	sum := sha256.Sum256([]byte(workload))
	return fmt.Sprintf("%s-%x", strings.TrimRight(valid[:min(len(valid), maxName-17)], "-"), sum[:8])
}

// mayWant says whether the family may want to use a name.
func (f *family) mayWant(name string) bool {
	return name == f.name || strings.HasPrefix(name, f.name+"-")
}

// familyOf is the family that may want to use a name, or nil.
func familyOf(name string) *family {
	for _, f := range families {
		if f.mayWant(name) {
			return f
		}
	}
	return nil
}
