package envoy

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// TestListenersOfOneVMKeepTheirSettings runs listeners in one Envoy that share a VM,
// because they have the same module and vm_id, but have different settings.
func TestListenersOfOneVMKeepTheirSettings(t *testing.T) {
	w := newWorld(t)
	listener := func(name string, configuration map[string]any) envoytest.Listener {
		return envoytest.Listener{Name: name, Filters: []envoytest.Filter{filter(t, configuration)}}
	}
	w.start(t, map[string]envoytest.Config{"one": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{
			listener("plain", settings()),
			listener("nowhere", map[string]any{"stale_after": "1h"}),
			listener("tag", settings("policy_tag", true)),
			listener("short", settings("max_delay", "50ms", "stale_after", "5m")),
			listener("probes", settings("fault_health_probes", true)),
			listener("quiet", settings("fault_header", false)),
		},
	}})
	w.push(t, `
metadata: {name: delay}
spec:
  rules: [{match: {path: {exact: /delay}}, fault: {delay_ms: 400}}]`, `
metadata: {name: abort}
spec:
  rules:
  - {match: {path: {exact: /abort}}, fault: {abort: {status: 418}}}
  - {match: {path: {exact: /both}}, fault: {delay_ms: 20, abort: {status: 418}}}`)
	one, c := w.envoys["one"], client(t, false)
	expect := func(listener, path, agent string, status int, header string) {
		t.Helper()
		answer := ask(t, c, envoytest.Request{URL: one.ListenerURL(listener) + path, Header: http.Header{"User-Agent": {agent}}})
		if got := answer.Header.Get("X-Hfi-Fault"); answer.Status != status || got != header {
			t.Errorf("listener %s, %s of %s: status %d, x-hfi-fault %q; want %d, %q", listener, path, agent, answer.Status, got, status, header)
		}
	}
	await(t, "policies in force behind the listener with its own stale_after", func() bool {
		return get(t, c, one.ListenerURL("short")+"/abort").Status == 418
	})
	for range 4 { // so that both workers have answered
		c.Close()
		for _, path := range []string{"/abort", "/both"} {
			expect("plain", path, "curl/8", 418, "abort")
			expect("plain", path, "kube-probe/1.37", 200, "")
			expect("tag", path, "kube-probe/1.37", 200, "")
			expect("short", path, "curl/8", 418, "abort")
			expect("probes", path, "kube-probe/1.37", 418, "abort")
			expect("quiet", path, "curl/8", 418, "")
			expect("quiet", path, "kube-probe/1.37", 200, "")
			expect("nowhere", path, "curl/8", 200, "")
		}
	}
	// A delay never ends early, and the fastest of some is not much late.
	took := map[string]time.Duration{"plain": time.Hour, "short": time.Hour}
	for listener := range took {
		for range 5 {
			took[listener] = min(took[listener], get(t, c, one.ListenerURL(listener)+"/delay").Elapsed)
		}
	}
	if took["plain"] < 400*time.Millisecond || took["short"] < 50*time.Millisecond || took["short"] >= 400*time.Millisecond {
		t.Errorf("the fastest delayed requests took %v; the delay is 400 ms, and 50 ms at most on listener short", took)
	}
	expect("tag", "/abort", "curl/8", 418, "abort")
	tagged := func(s envoytest.Stats) float64 { return s.Value("hfi_faults_aborts_total", "policy", "abort") }
	stats, err := one.WaitStats("all aborts counted", envoytest.WaitLimit, func(s envoytest.Stats) bool {
		return tagged(s) == 1 && s.Value("hfi_faults_aborts_total") >= 34
	})
	if err != nil {
		t.Errorf("%v: %v of %v aborts are counted by policy", err, tagged(stats), stats.Value("hfi_faults_aborts_total"))
	}
}

// TestSettingsThatComeBack changes a listener's settings from A to B and back, several times,
// while the replaced listeners still drain. Envoy then uses A's plugin context again, without
// starting it. Each time, the settings are in force at once, with the policies.
func TestSettingsThatComeBack(t *testing.T) {
	testtool.SlowOnly(t)
	w := newWorld(t)
	a, b := settings(), settings("stale_after", "5m", "fault_header", false)
	listener := func(configuration map[string]any) envoytest.Listener { return dynamic(t, configuration) }
	w.start(t, map[string]envoytest.Config{"one": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{{Routes: []envoytest.Route{{Status: 200}}}},
		Dynamic:   []envoytest.Listener{listener(a)},
		// Replaced listeners drain for longer than the test takes.
		Arguments: []string{"--drain-time-s", "600"},
	}})
	one := w.envoys["one"]
	push := func(status int) {
		t.Helper()
		commit := w.repo.Commit("Change", map[string]string{"policies/all.yaml": fmt.Sprintf("metadata: {name: all}\nspec: {rules: [{fault: {abort: {status: %d}}}]}\n", status)})
		w.repo.Push()
		w.daemon.WaitSynced(commit)
	}
	for i, configuration := range []map[string]any{a, b, a, b, a, {}, a} {
		if i > 0 {
			if err := one.SetDynamic(listener(configuration)); err != nil {
				t.Fatal(err)
			}
		}
		status, header := 418+i, "all"
		switch {
		case len(configuration) == 0: // It says nothing of the daemon.
			status, header = 200, ""
		case i%2 == 1:
			header = ""
		}
		push(418 + i)
		changed := time.Now()
		// Several connections, so that each worker has answered.
		await(t, fmt.Sprintf("settings %d in force", i), func() bool {
			for range 6 {
				answer := getOnce(t, one.ListenerURL("dynamic")+"/ok")
				if answer.Status != status || answer.Header.Get("X-Hfi-Fault") != header {
					return false
				}
			}
			return true
		})
		t.Logf("settings %d were in force after %s", i, time.Since(changed).Round(time.Millisecond))
	}
}

// TestManySettingsInOneVM has listeners with 40 different settings in one VM, half of them with
// policies of their own, and removes them from the last on.
func TestManySettingsInOneVM(t *testing.T) {
	testtool.SlowOnly(t)
	w := newWorld(t)
	var all []envoytest.Listener
	for i := range 40 {
		configuration := settings("max_delay", fmt.Sprintf("%dm", i+1))
		if i%2 == 1 {
			configuration = settings("stale_after", fmt.Sprintf("%dm", i+20))
		}
		all = append(all, envoytest.Listener{Name: fmt.Sprintf("l%d", i), Filters: []envoytest.Filter{filter(t, configuration)}})
	}
	w.start(t, map[string]envoytest.Config{"one": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Clusters: w.clusters(), Arguments: []string{"--drain-time-s", "1"},
		Listeners: []envoytest.Listener{{Name: "without"}}, Dynamic: all,
	}})
	one, status := w.envoys["one"], 418
	for left := len(all); left > 0; left -= 13 {
		if left < len(all) {
			if err := one.SetDynamic(all[:left]...); err != nil {
				t.Fatal(err)
			}
			await(t, "the end of the listeners that are removed", func() bool {
				return w.stats(t, "one").Value("envoy_listener_manager_total_listeners_draining") == 0
			})
		}
		w.repo.Commit("Change", map[string]string{"policies/all.yaml": fmt.Sprintf("metadata: {name: all}\nspec: {rules: [{fault: {abort: {status: %d}}}]}\n", status)})
		w.repo.Push()
		for _, listener := range all[:left] {
			await(t, fmt.Sprintf("status %d of listener %s, one of %d", status, listener.Name, left), func() bool {
				return getOnce(t, one.ListenerURL(listener.Name)).Status == status
			})
		}
		status++
	}
	w.daemon.WaitStatus("the filter current", func(s *api.Status) bool {
		return s.Filters.Current == 1 && s.Filters.Items[0].VMs.Current == 2
	})
}
