package envoy

import (
	"fmt"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// outageSettled returns the policies that stay while the real daemon crashes, and
// one that changes: see outageLoad for what they do.
func outageSettled(version int) []string {
	return []string{
		"metadata: {name: kept}\nspec: {rules: [{match: {path: {exact: /kept}}, fault: {abort: {status: 418}}}]}",
		fmt.Sprintf("metadata: {name: late}\nspec: {rules: [{match: {path: {exact: /late}}, fault: {delay_ms: %d}}]}", outageDelay.Milliseconds()),
		fmt.Sprintf("metadata: {name: version}\nspec: {rules: [{match: {path: {exact: /version-%d}}, fault: {abort: {status: 410}}}]}", version),
	}
}

// With the real daemon killed under load, absent for a while, restarted at once,
// stopped, and frozen, the policies in force stay in force and no request fails.
// After each restart the filter follows the new process, which reports it as
// current.
func TestDaemonCrashesFailNoRequest(t *testing.T) {
	t.Parallel()
	// Every process of the daemon listens on the same port.
	w := newWorld(t, "--listen", testtool.FreeAddress(t))
	w.start(t, map[string]envoytest.Config{"frontend-1": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings())}}},
	}})
	e := w.envoys["frontend-1"]
	w.push(t, outageSettled(1)...)
	busy := outageBusy(t, e.URL())
	// away is long enough for several failed requests of the filter.
	const away = 2 * time.Second
	for i, death := range []struct {
		what string
		die  func()
	}{
		{"killed, and absent for a while", func() {
			w.daemon.Kill()
			time.Sleep(away)
			w.daemon.Start()
		}},
		{"killed and restarted", func() {
			w.daemon.Kill()
			w.daemon.Start()
		}},
		{"stopped and restarted", func() {
			w.daemon.Stop()
			w.daemon.Start()
		}},
		{"frozen for a while", func() {
			w.daemon.Freeze()
			time.Sleep(away)
			w.daemon.Thaw()
		}},
	} {
		death.die()
		w.daemon.WaitReady()
		version := i + 2
		w.push(t, outageSettled(version)...)
		if answer := get(t, client(t, false), fmt.Sprintf("%s/version-%d", e.URL(), version)); answer.Status != 410 {
			t.Errorf("after a daemon that was %s, new policies are not in force: %d", death.what, answer.Status)
		}
		w.daemon.WaitStatus("after a daemon that was "+death.what+", all VMs are current", func(s *api.Status) bool {
			f := s.Filters
			return f.Connected == 1 && f.Current == 1 && f.Silent == 0 && f.Items[0].VMs.Current == e.vms
		})
	}
	busy.end()
	if panics := e.value(t, "hfi_panics_total"); panics != 0 {
		t.Errorf("%v panics", panics)
	}
}
