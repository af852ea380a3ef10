package envoy

import (
	"strings"
	"testing"
)

// The counters hfi.faults.aborts_total and hfi.faults.delays_total, and the
// filter's other metrics, are in Envoy's own Prometheus endpoint and count
// correctly: without labels by default, and by policy if the filter's setting and
// the bootstrap's stats_tags enable it.
func TestEnvoysPrometheusEndpointHasTheFaults(t *testing.T) {
	w := mesh(t)
	w.push(t)
	before := map[string]map[string]float64{}
	names := []string{"hfi_faults_aborts_total", "hfi_faults_delays_total", "hfi_config_updates_total", "hfi_heartbeats_total", "hfi_panics_total",
		"hfi_config_bad_policies_total", "hfi_config_poll_errors_total"}
	for _, envoy := range []string{"frontend-1", "frontend-2"} {
		stats := w.counted(t, envoy)
		before[envoy] = map[string]float64{}
		for _, name := range names {
			before[envoy][name] = stats.Value(name)
		}
	}
	w.push(t, faulting("count-abort", `{abort: {status: 503}}`), faulting("count-delay", `{delay_ms: 1}`),
		faulting("count-both", `{delay_ms: 1, abort: {status: 503}}`))
	for _, envoy := range []string{"frontend-1", "frontend-2"} {
		c := client(t, false)
		for path, times := range map[string]int{"/count-abort": 10, "/count-delay": 7, "/count-both": 5, "/ok": 20} {
			for range times {
				get(t, c, w.envoys[envoy].URL()+path)
			}
		}
		stats := w.counted(t, envoy)
		grown := func(name string) float64 { return stats.Value(name) - before[envoy][name] }
		for name, want := range map[string]float64{
			"hfi_faults_aborts_total": 15, "hfi_faults_delays_total": 12, "hfi_config_updates_total": 3, "hfi_panics_total": 0, "hfi_config_bad_policies_total": 0,
		} {
			if got := grown(name); got != want || want > 0 && !stats.Has(name) {
				t.Errorf("%s: %s grew by %v, not %v", envoy, name, got, want)
			}
		}
		// One for each response of the daemon to each of three VMs.
		if got := grown("hfi_heartbeats_total"); got < 3 {
			t.Errorf("%s: hfi_heartbeats_total grew by %v", envoy, got)
		}
		if got := stats.Value("hfi_policies_loaded"); got != 3 {
			t.Errorf("%s: hfi_policies_loaded is %v", envoy, got)
		}
		for _, name := range names {
			if !stats.Has(name) {
				t.Errorf("%s: the endpoint has no %s", envoy, name)
			}
		}
		for name := range stats {
			if strings.Contains(name, "hfi_") && strings.Contains(name, "policy_") {
				t.Errorf("%s: the metric's name contains a policy's name: %s", envoy, name)
			}
		}
	}
	byPolicy := w.stats(t, "frontend-2")
	for _, c := range []struct {
		name, policy string
		want         float64
	}{
		{"hfi_faults_aborts_total", "count-abort", 10}, {"hfi_faults_aborts_total", "count-both", 5}, {"hfi_faults_aborts_total", "count-delay", 0},
		{"hfi_faults_delays_total", "count-delay", 7}, {"hfi_faults_delays_total", "count-both", 5},
	} {
		if got := byPolicy.Value(c.name, "policy", c.policy); got != c.want {
			t.Errorf("%s of policy %s is %v, not %v", c.name, c.policy, got, c.want)
		}
	}
	if got := w.stats(t, "frontend-1").Value("hfi_faults_aborts_total", "policy", "count-abort"); got != 0 {
		t.Errorf("without policy_tag there is a series of a policy: %v", got)
	}
}
