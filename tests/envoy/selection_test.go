package envoy

import (
	"fmt"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// The filter selects policies too. If a control plane sends frontend a policy for
// productcatalog, or for frontend in another namespace, the filter ignores that
// policy and applies the others. The filters are configured as filter/README.md
// says: outside Istio, the name of the control plane's cluster in Envoy is its
// address, or the host alone.
func TestFilterIgnoresPoliciesForOtherWorkloads(t *testing.T) {
	t.Parallel()
	control := outageStart(t)
	upstream := envoytest.RunUpstream(t)
	addresses := map[string]string{"by-address": "hfi.example.com:80", "by-host": "hfi.example.org:8080"}
	config := envoytest.Config{
		Node: envoytest.Workload("frontend", "demo", "frontend-1"),
		Clusters: []envoytest.Cluster{
			{Name: "upstream", Address: upstream.Address},
			{Name: "hfi.example.com:80", Address: control.address},
			{Name: "hfi.example.org", Address: control.address},
		},
	}
	for name, address := range addresses {
		config.Listeners = append(config.Listeners, envoytest.Listener{Name: name, Filters: []envoytest.Filter{
			envoytest.Wasm{Name: name, File: hfidtest.Module(t), Configuration: map[string]any{"control_plane_address": address}}.Filter(),
		}})
	}
	e := &sidecar{name: "frontend-1", vms: 2, Envoy: envoytest.Run(t, config)}

	const policy = `{"metadata":{"name":%q},"spec":{"selector":%s,"rules":[{"match":{"path":{"exact":"/%s"}},"fault":{"abort":{"status":418}}}]}}`
	selectors := map[string]string{
		"service": `{"service":"productcatalog"}`, "namespace": `{"service":"frontend","namespace":"prod"}`,
		"own": `{"service":"frontend","namespace":"demo"}`, "all": `{}`,
	}
	tag := control.serving(func(int) string {
		list := ""
		for name, selector := range selectors {
			list += "," + fmt.Sprintf(policy, name, selector, name)
		}
		return `{"policies":[` + list[1:] + `]}`
	})
	for name := range addresses {
		await(t, tag+" in force behind listener "+name, func() bool { return e.has(name, tag) })
		for path, status := range map[string]int{"service": 200, "namespace": 200, "own": 418, "all": 418} {
			if answer := get(t, client(t, false), e.ListenerURL(name)+"/"+path); answer.Status != status {
				t.Errorf("listener %s, a policy for %s: status %d, and not %d", name, selectors[path], answer.Status, status)
			}
		}
	}
	if err := e.WaitLog("ignoring policies that do not select this workload", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
}
