package kube

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"

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
	// serves says whether a policy needs plugins of this family.
	serves func(*schema.Policy) bool
	// direction is the filter's setting, which tells the plugins of others apart. It
	// is left out if it is the default.
	direction schema.Direction
	// mode is that of a WasmPlugin's traffic, and context that of an EnvoyFilter's patches.
	mode, context string
}

var (
	// inbound is for the requests that workloads receive.
	inbound = &family{
		name: PluginName, serves: func(policy *schema.Policy) bool { return !policy.Outbound() },
		direction: schema.Inbound, mode: "SERVER", context: "SIDECAR_INBOUND",
	}
	// outbound is for the requests that workloads send.
	outbound = &family{
		name: PluginName + ".outbound", serves: (*schema.Policy).Outbound,
		direction: schema.Outbound, mode: "CLIENT", context: "SIDECAR_OUTBOUND",
	}
)

// families are all families. No name that one may want to use is another's too, and each
// policy has one.
var families = []*family{inbound, outbound}

// familyOfPolicy is the family that serves a policy.
func familyOfPolicy(policy *schema.Policy) *family {
	if outbound.serves(policy) {
		return outbound
	}
	return inbound
}

// config is the filter's configuration.
func (f *family) config(address string) map[string]any {
	config := map[string]any{"control_plane_address": address}
	if f.direction != schema.Inbound {
		config["direction"] = string(f.direction)
	}
	return config
}

// pluginOf is the name of a workload's plugin. A workload's name may come
// from a label: if it is no valid name of an object, or too long, a part of its
// digest makes it one that no other workload has.
func (f *family) pluginOf(workload string) string {
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
