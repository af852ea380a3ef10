package envoy

import (
	"fmt"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// With the filter twice in a chain, as for a moment while one plugin replaces
// another, no request is faulted by both: whether their configurations are equal, so
// that they share a plugin context, or not.
func TestTwoFiltersInAChainFaultARequestOnce(t *testing.T) {
	w := newWorld(t)
	configs := map[string]envoytest.Config{}
	for name, second := range map[string]any{"equal": settings(), "different": settings("fault_header", false)} {
		copied := filter(t, second)
		copied.Name = "hfi-2"
		configs[name] = envoytest.Config{
			Clusters: w.clusters(), Node: envoytest.Node{Metadata: map[string]any{"WORKLOAD_NAME": name, "NAMESPACE": "demo"}},
			Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings()), copied}}},
		}
	}
	w.start(t, configs)
	w.push(t, `
metadata: {name: all}
spec:
  rules: [{fault: {delay_ms: 5}}]`)
	const count = 200
	for name, e := range w.envoys {
		before := e.value(t, "hfi_faults_delays_total")
		report, err := envoytest.Load{Request: envoytest.Request{URL: e.URL() + "/ok"}, Requests: count, Connections: 8}.Run(t.Context())
		if err != nil || report.Statuses[200] != count {
			t.Fatalf("%s: %v, %v", name, report, err)
		}
		await(t, fmt.Sprintf("%d delays in Envoy %s", count, name), func() bool { return e.value(t, "hfi_faults_delays_total")-before >= count })
		// Each VM writes its metrics once a second.
		testtool.Throughout(t, 3*time.Second, "no request was delayed twice", func() error {
			if delays := e.value(t, "hfi_faults_delays_total") - before; delays != count {
				return fmt.Errorf("%s: %d requests had %v delays", name, count, delays)
			}
			return nil
		})
	}
}
