package envoy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// olderEnvoys returns the versions of Envoy that tools/envoy pins, from the oldest
// on, without the newest, on which all other tests run.
func olderEnvoys(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(testtool.Root(), "tools", "envoy", "*.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var versions []string
	for _, file := range files {
		versions = append(versions, strings.TrimSuffix(filepath.Base(file), ".txt"))
	}
	slices.SortFunc(versions, func(a, b string) int { return slices.Compare(numbers(t, a), numbers(t, b)) })
	if len(versions) < 2 {
		t.Fatalf("tools/envoy has the versions %q", versions)
	}
	return versions[:len(versions)-1]
}

// numbers returns the numbers of a version.
func numbers(t *testing.T, version string) (parts []int) {
	t.Helper()
	for _, part := range strings.Split(version, ".") {
		number, err := strconv.Atoi(part)
		if err != nil {
			t.Fatalf("the version %s: %v", version, err)
		}
		parts = append(parts, number)
	}
	return parts
}

// In the oldest Envoy that is pinned, requests pass before the daemon starts. Then its
// policies apply: aborts, delays, and a change of both. The daemon knows the filter.
func TestOldestEnvoy(t *testing.T) {
	t.Parallel()
	version := olderEnvoys(t)[0]
	binary := testtool.Path(t, "envoy-"+version)
	upstream := envoytest.RunUpstream(t)
	address := testtool.FreeAddress(t)
	e := envoytest.Run(t, envoytest.Config{
		Binary: binary, Node: envoytest.Workload("frontend", "demo", "frontend-1"),
		Clusters: []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}, {Name: "daemon", Address: address}},
		Listeners: []envoytest.Listener{{
			Filters:   []envoytest.Filter{envoytest.Wasm{File: hfidtest.TrapModule(t), Configuration: settings("fault_header", false)}.Filter()},
			AccessLog: faultLog,
		}},
	})
	c := client(t, false)
	if answer := get(t, c, e.URL()+"/abort"); answer.Status != 200 {
		t.Errorf("without a daemon: status %d", answer.Status)
	}

	const delay = 100 * time.Millisecond
	policy := func(status int) map[string]string {
		return map[string]string{"policies/all.yaml": fmt.Sprintf(`
metadata: {name: all}
spec:
  selector: {service: frontend, namespace: demo}
  rules:
  - {match: {path: {exact: /abort}, headers: [{name: x-user, prefix: test}]}, fault: {abort: {status: %d}}}
  - {match: {path: {regex: "/(de|re)lay"}}, fault: {delay_ms: %d}}
  - {match: {path: {exact: /both}}, fault: {delay_ms: %d, abort: {status: %d}}}
`, status, delay.Milliseconds(), delay.Milliseconds(), status)}
	}
	repo := gittest.New(t)
	repo.Commit("Begin", policy(418))
	repo.Push()
	daemon := hfidtest.New(t, repo.Bare(), "--listen", address)
	daemon.Start()
	daemon.WaitReady()
	// The header does not fit into the filter's buffer, so the filter allocates memory for it.
	abort := envoytest.Request{URL: e.URL() + "/abort", Header: map[string][]string{"X-User": {"tester" + strings.Repeat(" and more", 2000)}}}
	for _, status := range []int{418, 503} {
		if status == 503 {
			repo.Commit("Change", policy(status))
			repo.Push()
		}
		await(t, "the policy in force", func() bool { return ask(t, c, abort).Status == status })
		for range 200 {
			if answer := ask(t, c, abort); answer.Status != status || answer.Header.Get("X-Hfi-Fault") != "" {
				t.Fatalf("request /abort: %d, %v", answer.Status, answer.Header)
			}
		}
		collect := abort
		collect.Header = map[string][]string{"X-User": {"tester"}, "X-Hfi-Collect": {"1"}}
		for range 20 {
			if answer := ask(t, c, collect); answer.Status != status {
				t.Fatalf("a request during a garbage collection: %d", answer.Status)
			}
		}
		for path, want := range map[string]int{"/delay": 200, "/both": status} {
			if answer := get(t, c, e.URL()+path); answer.Status != want || answer.Elapsed < delay {
				t.Errorf("request %s: %d after %s", path, answer.Status, answer.Elapsed)
			}
		}
		if answer := get(t, c, e.URL()+"/abort"); answer.Status != 200 {
			t.Errorf("a request that does not match: %d", answer.Status)
		}
	}
	if err := e.WaitAccessLog("main", "/both 503 [delay=all;abort=all]", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	daemon.WaitStatus("the filter current", func(s *api.Status) bool {
		return s.Filters.Current == 1 && s.Filters.Items[0].Pod == "frontend-1" && s.Filters.Items[0].VMs.Current == 2
	})
	wantCollections(t, e, 45) // 40 of them were requested
}

// versionRequests is the number of requests of TestEveryEnvoyUnderLoad to each Envoy.
const versionRequests = 300_000

// In each older Envoy that is pinned, no VM ends and memory stays the same under load,
// while the Go runtime collects garbage as often as it can, and policies change ten
// times a second.
func TestEveryEnvoyUnderLoad(t *testing.T) {
	testtool.SlowOnly(t)
	for _, version := range olderEnvoys(t) {
		t.Run(version, func(t *testing.T) {
			binary := testtool.Path(t, "envoy-"+version)
			w := newWorld(t)
			w.start(t, map[string]envoytest.Config{"frontend-1": {
				Binary: binary, Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
				Listeners: []envoytest.Listener{{
					Filters: []envoytest.Filter{envoytest.Wasm{File: hfidtest.TrapModule(t), Configuration: settings()}.Filter()},
					Routes:  []envoytest.Route{{Prefix: "/direct", Status: 204}, {Timeout: -1}},
				}},
			}})
			e := w.envoys["frontend-1"]
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				collect(ctx, t, e.URL())
			}()
			soak(t, w, versionRequests)
			cancel()
			<-ended
			wantCollections(t, e.Envoy, 100)
		})
	}
}

// collect makes each worker's VM collect garbage as often as it can, and log the number of
// collections, until the context ends. It uses several connections so that each worker has some.
func collect(ctx context.Context, t *testing.T, url string) {
	load := envoytest.Load{
		Request: envoytest.Request{URL: url + "/ok", Header: http.Header{"X-Hfi-Collect": {"1"}}}, Connections: 8, Rate: 10, Duration: time.Hour,
		Check: func(status int, _ http.Header, _ []byte, _ time.Duration) error {
			if status != 200 {
				return fmt.Errorf("status %d", status)
			}
			return nil
		},
	}
	report, err := load.Run(ctx)
	if !errors.Is(err, context.Canceled) || report.Errors > 0 {
		t.Errorf("requests during garbage collections: %v, %s", err, report)
	}
}

// wantCollections checks the number of collections in an Envoy with the module of
// hfidtest.TrapModule, and that no VM has ended.
func wantCollections(t *testing.T, e *envoytest.Envoy, least int) {
	t.Helper()
	log := e.Log()
	if got := hfidtest.Collections(log); got < least {
		t.Errorf("only %d collections, want %d: the test checks little", got, least)
	}
	for _, end := range []string{"restricted_callback", "unreachable", "failed: Uncaught", "proxy_on_memory_allocate failed"} {
		if strings.Contains(log, end) {
			t.Errorf("a VM has ended: its log has %q", end)
		}
	}
}
