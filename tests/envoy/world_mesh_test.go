package envoy

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// nativeDelay is the delay of Envoy's own filter on frontend-1's listener "native".
const nativeDelay = 100 * time.Millisecond

// faultLog is an access log format that shows what the filter did.
const faultLog = "%REQ(:PATH)% %RESPONSE_CODE% [%FILTER_STATE(wasm.hfi_fault:PLAIN)%]"

// startMesh starts the Envoys of the shared world:
//
//   - "frontend-1", "-2" and "-3", of one service, which differ in their settings;
//   - "catalog", of another service, whose Envoy fetches the filter from the daemon;
//   - "nobody", which has no identity; the filter of half reaches the daemon through it;
//   - "half", which knows its service but not its namespace. It has more VMs
//     of the filter beside, each of them in one of its listeners: a second VM in
//     an Envoy costs a twentieth of the first.
func startMesh(owner testing.TB, w *sharedWorld) {
	owner.Helper()
	frontend := func(pod string, configuration any) envoytest.Config {
		return envoytest.Config{
			Node: envoytest.Workload("frontend", "demo", pod), Concurrency: 2, Clusters: w.clusters(),
			Listeners: []envoytest.Listener{{
				Filters: []envoytest.Filter{filter(owner, configuration)}, AccessLog: faultLog,
				// Tests of long delays need a route without a timeout.
				Routes: []envoytest.Route{{Timeout: -1}},
			}},
		}
	}
	first := frontend("frontend-1", settings())
	first.Listeners = append(first.Listeners, envoytest.Listener{
		Name: "native", Filters: []envoytest.Filter{envoytest.AlwaysDelay(nativeDelay).Filter()},
	}, envoytest.Listener{
		Name: "impatient", Filters: []envoytest.Filter{filter(owner, settings())}, StreamIdleTimeout: time.Second,
		AccessLog: "%RESPONSE_CODE_DETAILS% " + faultLog,
	})
	catalog := envoytest.Config{
		Node: envoytest.Workload("productcatalog", "demo", "catalog-1"), Clusters: w.clusters(),
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{remoteFilter(owner, w)}}},
	}
	// Its second listener forwards to the daemon.
	nobody := envoytest.Config{
		Node: envoytest.Node{ID: "nobody"}, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{
			{Filters: []envoytest.Filter{filter(owner, settings())}},
			{Name: "daemon", Filters: []envoytest.Filter{filter(owner, settings())}, Routes: []envoytest.Route{{Cluster: "daemon", Timeout: -1}}},
		},
	}
	w.start(owner, map[string]envoytest.Config{
		"frontend-1": first,
		"frontend-2": frontend("frontend-2", settings("policy_tag", true)),
		"frontend-3": frontend("frontend-3", settings("fault_header", false, "fault_health_probes", true, "max_delay", "700ms")),
		"catalog":    catalog,
		"nobody":     nobody,
	})
	clusters := w.clusters()
	clusters[1].Address = strings.TrimPrefix(w.envoys["nobody"].ListenerURL("daemon"), "http://")
	w.future = newFuture(owner)
	w.late = testtool.FreeAddress(owner)
	clusters = append(clusters, envoytest.Cluster{Name: "future", Address: w.future.Address()}, envoytest.Cluster{Name: "late", Address: w.late})
	half := envoytest.Config{
		Node: envoytest.Node{ID: "half", Metadata: map[string]any{"WORKLOAD_NAME": "frontend"}}, Clusters: clusters,
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(owner, settings())}}},
		Dynamic:   []envoytest.Listener{dynamic(owner, nil)},
		// Replaced listeners end after draining for this time.
		Arguments: []string{"--drain-time-s", "2"},
	}
	for name, configuration := range otherSettings {
		half.Listeners = append(half.Listeners, envoytest.Listener{Name: name, Filters: []envoytest.Filter{
			envoytest.Wasm{Name: name, File: hfidtest.Module(owner), Configuration: configuration}.Filter(),
		}})
	}
	w.start(owner, map[string]envoytest.Config{"half": half})
	w.waitInForce(owner)
}

// otherSettings are the settings of the additional VMs in Envoy half, by listener.
var otherSettings = map[string]any{
	"no-json":    `{"control_plane_cluster": daemon`,
	"nowhere":    map[string]any{"stale_after": "1h"},
	"no-cluster": map[string]any{"control_plane_address": "hfi-control-plane.boifi:8080"},
	"odd":        map[string]any{"control_plane_cluster": "daemon", "colour": "red", "max_delay": "soon"},
	"future":     map[string]any{"control_plane_cluster": "future"},
	"late":       map[string]any{"control_plane_cluster": "late", "stale_after": "3s"},
}

// dynamic is the listener that changes while Envoy half runs.
func dynamic(t testing.TB, configuration map[string]any) envoytest.Listener {
	if configuration == nil {
		configuration = settings()
	}
	return envoytest.Listener{Name: "dynamic", Filters: []envoytest.Filter{
		envoytest.Wasm{Name: "dynamic", File: hfidtest.Module(t), Configuration: configuration}.Filter(),
	}}
}

// remoteFilter is the filter that Envoy fetches from the daemon by the module's digest.
func remoteFilter(owner testing.TB, w *sharedWorld) envoytest.Filter {
	owner.Helper()
	module, err := os.ReadFile(hfidtest.Module(owner))
	if err != nil {
		owner.Fatal(err)
	}
	sum := sha256.Sum256(module)
	digest := hex.EncodeToString(sum[:])
	return envoytest.Wasm{
		URL: w.daemon.URL() + "/v1/filter/" + digest + ".wasm", Cluster: "daemon", SHA256: digest, Configuration: settings(),
	}.Filter()
}
