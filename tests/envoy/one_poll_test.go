package envoy

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// The 17 VMs of an Envoy with 16 workers have one request to the daemon between them, on
// one connection. Each of them has each change in force, and the status tells of each.
// When the VM that asks traps, another one asks, and the status names the trapped one.
func TestOneRequestForAllVMsOfAnEnvoy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const workers = 16
	w.start(t, map[string]envoytest.Config{"frontend-1": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: workers, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{envoytest.Wasm{File: hfidtest.TrapModule(t), Configuration: settings()}.Filter()}}},
	}})
	e := w.envoys["frontend-1"]
	one := func(when string) {
		t.Helper()
		// An Envoy that is busy may change the VM that asks. The connection of the former
		// one stays open for a while.
		asked := len(regexp.MustCompile(`asking the control plane for all VMs`).FindAllString(e.Log(), -1))
		var connections, requests float64
		if _, err := e.WaitStats(when+", one request", envoytest.WaitLimit, func(s envoytest.Stats) bool {
			connections = s.Value("envoy_cluster_upstream_cx_active", "envoy_cluster_name", "daemon")
			requests = s.Value("envoy_cluster_upstream_rq_active", "envoy_cluster_name", "daemon")
			return requests == 1
		}); err != nil || connections > float64(asked) || connections < 1 {
			t.Errorf("%v: %v connections and %v requests of %d VMs", err, connections, requests, asked)
		}
		if asked > 3 {
			t.Errorf("%s, %d VMs have asked", when, asked)
		}
	}
	state := func(what string, is func(api.FilterStatus) bool) {
		t.Helper()
		w.daemon.WaitStatus(what, func(s *api.Status) bool {
			return len(s.Filters.Items) == 1 && is(s.Filters.Items[0])
		})
	}
	for _, version := range []int{1, 2, 1} {
		_, pushed := w.push(t, outageSettled(version)...)
		t.Logf("a change was in force in all VMs after %s, git included", time.Since(pushed).Round(time.Millisecond))
		state("all VMs are current", func(f api.FilterStatus) bool {
			return f.State == api.FilterCurrent && f.VMs == api.VMCounts{Total: workers + 1, Current: workers + 1}
		})
		one(fmt.Sprintf("with version %d", version))
	}

	if _, err := client(t, false).Do(context.Background(), envoytest.Request{URL: e.URL() + "/ok", Header: http.Header{"X-Hfi-Trap-Leader": {"1"}}}); err != nil {
		t.Fatal(err)
	}
	if err := e.WaitLog("Function: proxy_on_tick failed", envoytest.WaitLimit); err != nil {
		t.Fatal(err)
	}
	trapped := time.Now()
	w.repo.Commit("Change", map[string]string{"policies/version.yaml": outageSettled(3)[2]})
	w.repo.Push()
	testtool.Eventually(t, "the other VMs have the next change in force", func() bool {
		etag, threads := w.daemon.Policies(e.query).ETag, map[string]bool{}
		for _, update := range e.updates("hfi") {
			if update.etag == etag {
				threads[update.thread] = true
			}
		}
		return len(threads) == workers
	})
	t.Logf("with the leader trapped, the next change was in force in the others after %s", time.Since(trapped).Round(time.Millisecond))
	state("the trapped VM is silent", func(f api.FilterStatus) bool {
		return f.State == api.FilterSilent && f.VMs == api.VMCounts{Total: workers + 1, Current: workers, Silent: 1}
	})
	t.Logf("the trapped VM was reported after %s", time.Since(trapped).Round(time.Millisecond))
}
