package oldhost

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCallsOfARequest checks which functions of the host the filter calls for a request: each costs as much as
// the rest of the decision, or more, because reading a value calls back into the module too.
func TestCallsOfARequest(t *testing.T) {
	const path, agent = "env.proxy_get_header_map_value :path", "env.proxy_get_header_map_value user-agent"
	w := start(t)
	w.repo.Commit("Add policies", map[string]string{"policies/all.yaml": `
metadata: {name: all}
spec:
  rules:
  - {match: {path: {exact: /abort}}, fault: {abort: {status: 418}}}
  - {match: {path: {exact: /delay}}, fault: {delay_ms: 100000}}
  - {match: {path: {exact: /header}, headers: [{name: x-user, exact: tester}]}, fault: {abort: {status: 418}}}
---
metadata: {name: dry}
spec:
  dry_run: true
  rules:
  - {match: {path: {exact: /dry}}, fault: {delay_ms: 100, abort: {status: 503}}}
`})
	w.repo.Push()
	w.until("the policies are in force", func() bool { return w.value("hfi.policies_loaded") == 2 })
	for name, c := range map[string]struct {
		path string
		more [][2]string
		want []string
	}{
		"a path without a policy":                                      {path: "/ok", want: []string{path}},
		"a path whose policy compares a header that the request lacks": {path: "/header", want: []string{path, "env.proxy_get_header_map_value x-user"}},
		"a path whose policy compares a header": {path: "/header", more: [][2]string{{"x-user", "other"}},
			want: []string{path, "env.proxy_get_header_map_value x-user", "env.proxy_get_property request.headers.x-user"}},
		"a dry run": {path: "/dry", want: []string{path, agent}},
		"a probe":   {path: "/abort", more: [][2]string{{"user-agent", "kube-probe/1.37"}}, want: []string{path, agent}},
		"an abort": {path: "/abort", want: []string{path, agent, "env.proxy_get_property hfi_fault", "env.proxy_set_property hfi_fault",
			"env.proxy_send_local_response"}},
		"a delay": {path: "/delay", want: []string{path, agent, "env.proxy_get_property hfi_fault", "env.proxy_set_property hfi_fault",
			"clock_time_get", "clock_time_get", "env.proxy_increment_metric", "clock_time_get", "clock_time_get", "env.proxy_set_tick_period_milliseconds"}},
	} {
		t.Run(name, func(t *testing.T) {
			// The first fault sets a tick, which writes the counters of all until then. No tick comes during this test.
			w.end(w.request(w.plugin, c.path, c.more...))
			w.calls = []string{}
			request := w.request(w.plugin, c.path, c.more...)
			if diff := cmp.Diff(c.want, w.calls); diff != "" {
				t.Errorf("the calls differ (-want +got):\n%s", diff)
			}
			w.end(request)
		})
	}
}
