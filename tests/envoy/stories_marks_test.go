package envoy

import (
	"net/http"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// Health probes are not faulted, unless the setting fault_health_probes is true.
func TestHealthProbesAreNotFaulted(t *testing.T) {
	w := mesh(t)
	w.push(t, `
metadata: {name: all}
spec:
  rules: [{fault: {abort: {status: 503}}}]`)
	c := client(t, false)
	for _, r := range []struct {
		envoy, agent string
		status       int
	}{
		{"frontend-1", "kube-probe/1.37", 200}, {"frontend-1", "Envoy/HC", 200},
		{"frontend-1", "ELB-HealthChecker/2.0", 200}, {"frontend-1", "GoogleHC/1.0", 200}, {"frontend-1", "Edge Health Probe", 200},
		{"frontend-1", "Azure Traffic Manager Endpoint Monitor", 200}, {"frontend-1", "Load Balancer Agent", 200},
		{"frontend-1", "Amazon-Route53-Health-Check-Service (ref 1f2e3d; report http://amzn.to/1vsZADi)", 200},
		{"frontend-1", "Consul Health Check", 200},
		{"frontend-1", "curl/8", 503}, {"frontend-1", "not kube-probe/1.37", 503}, {"frontend-1", "", 503},
		{"frontend-3", "kube-probe/1.37", 503}, {"frontend-3", "Envoy/HC", 503}, {"frontend-3", "curl/8", 503},
	} {
		answer := ask(t, c, envoytest.Request{URL: w.envoys[r.envoy].URL() + "/ok", Header: http.Header{"User-Agent": {r.agent}}})
		if answer.Status != r.status {
			t.Errorf("%s, User-Agent %q: status %d, not %d", r.envoy, r.agent, answer.Status, r.status)
		}
	}
}

// Faults are shown in the header x-hfi-fault of aborts, unless fault_header turns
// it off, in the access log by the policies' names, and in the debug log.
func TestFaultsAreShownInHeaderAndLogs(t *testing.T) {
	w := mesh(t)
	w.push(t, faulting("mark-abort", `{abort: {status: 418}}`), faulting("mark-delay", `{delay_ms: 20}`),
		faulting("mark-both", `{delay_ms: 20, abort: {status: 418}}`), `
metadata: {name: mark-dry}
spec:
  dry_run: true
  rules: [{match: {path: {exact: /mark-dry}}, fault: {abort: {status: 418}}}]`)
	for _, name := range []string{"frontend-1", "frontend-3"} {
		if err := w.envoys[name].SetLogLevel("wasm", "debug"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.envoys[name].SetLogLevel("wasm", "info") })
		c := client(t, false)
		for _, r := range []struct{ path, header, access string }{
			{"/mark-abort", "mark-abort", "/mark-abort 418 [abort=mark-abort]"},
			{"/mark-delay", "", "/mark-delay 200 [delay=mark-delay]"},
			{"/mark-both", "mark-both", "/mark-both 418 [delay=mark-both;abort=mark-both]"},
			{"/mark-dry", "", "/mark-dry 200 [-]"},
			{"/mark-none", "", "/mark-none 200 [-]"},
		} {
			header := r.header
			if name == "frontend-3" { // fault_header is off there
				header = ""
			}
			answer := get(t, c, w.envoys[name].URL()+r.path)
			if got := answer.Header.Get("X-Hfi-Fault"); got != header {
				t.Errorf("%s %s: x-hfi-fault is %q, not %q", name, r.path, got, header)
			}
			if err := w.envoys[name].WaitAccessLog("main", r.access+"\n", envoytest.WaitLimit); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, line := range []string{
			"1 aborts by mark-abort", "1 delays by mark-delay", "1 delays by mark-both", "1 aborts by mark-both", "1 dry-run aborts by mark-dry",
		} {
			if err := w.envoys[name].WaitLog(line, envoytest.WaitLimit); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
