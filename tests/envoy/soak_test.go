package envoy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

const (
	// soakRequests is the full size; in a short run the soak ends after soakShort.
	soakRequests = 2_000_000
	soakShort    = 10 * time.Second
	// soakLimit is far more than it takes on an idle machine.
	soakLimit = 15 * time.Minute
	soakDelay = 20 * time.Millisecond
	// soakGrowth is how much more memory Envoy may hold in the last quarter of the
	// soak than in its second one.
	soakGrowth = 12 << 20
)

// soakSteady are the policies that do not change.
var soakSteady = []string{
	"metadata: {name: kept}\nspec: {rules: [{match: {path: {exact: /kept}}, fault: {abort: {status: 418}}}]}",
	"metadata: {name: share}\nspec: {rules: [{match: {path: {exact: /share}}, fault: {abort: {status: 503}, percentage: 50}}]}",
	fmt.Sprintf("metadata: {name: late}\nspec: {rules: [{match: {path: {exact: /late}}, fault: {delay_ms: %d}}]}", soakDelay.Milliseconds()),
	"metadata: {name: held}\nspec: {rules: [{match: {path: {exact: /held}}, fault: {delay_ms: 100000}}]}",
}

// soakPath is a load on one path.
type soakPath struct {
	path string
	// share is its part of all requests, in percent; 0 means that it runs beside the
	// others at a low rate.
	share int
	rate  float64
	check func(status int, fault string, elapsed time.Duration) bool
}

var soakPaths = []soakPath{
	{path: "/ok", share: 15, check: func(status int, fault string, _ time.Duration) bool { return status == 200 && fault == "" }},
	// Envoy responds to these itself, after the filter: an upstream would only take CPU time.
	{path: "/direct", share: 35, check: func(status int, fault string, _ time.Duration) bool { return status == 204 && fault == "" }},
	{path: "/kept", share: 30, check: func(status int, fault string, _ time.Duration) bool { return status == 418 && fault == "kept" }},
	{path: "/changing", share: 10, check: func(status int, fault string, _ time.Duration) bool {
		return status == 200 && fault == "" || (status == 410 || status == 503) && fault == "changing"
	}},
	{path: "/share", share: 10, check: func(status int, fault string, _ time.Duration) bool {
		return status == 200 && fault == "" || status == 503 && fault == "share"
	}},
	{path: "/late", rate: 100, check: func(status int, fault string, elapsed time.Duration) bool {
		// The filter's clock and this one may differ slightly.
		return status == 200 && fault == "" && elapsed > soakDelay-5*time.Millisecond
	}},
}

// In two million requests, with policies changing in git ten times a second, none
// fails that a policy does not abort. Envoy's memory does not grow after warm-up,
// and no paused stream is left, not even one whose client has disconnected.
func TestSoak(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start(t, map[string]envoytest.Config{"frontend-1": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{filter(t, settings())}, Routes: []envoytest.Route{{Prefix: "/direct", Status: 204}, {Timeout: -1}}}},
	}})
	requests := 0
	if testtool.Slow() {
		requests = soakRequests
	}
	soak(t, w, requests)
}

// soak sends this number of requests through Envoy frontend-1, or as many as it
// can in soakShort if it is 0, while policies change.
func soak(t *testing.T, w *world, requests int) {
	t.Helper()
	e := w.envoys["frontend-1"]
	w.push(t, append(slices.Clone(soakSteady), soakChanging(0))...)
	updates := e.value(t, "hfi_config_updates_total")

	began := time.Now()
	watch := soakWatch(t, e)
	pushes := soakPush(t, w.repo)
	reports := soakLoad(t, e.URL(), requests)
	elapsed := time.Since(began)
	memory := watch.end(t)
	commits := pushes.end(t)
	last := w.repo.Server("rev-parse", "main")
	w.daemon.WaitSynced(last)
	w.waitInForce(t)

	total, errors := 0, 0
	for _, path := range soakPaths {
		report := reports[path.path]
		total += report.Answers()
		errors += report.Errors
		if report.Errors > 0 {
			t.Errorf("%s: %s", path.path, report)
		}
		if report.Answers() == 0 {
			t.Errorf("%s: no request", path.path)
		}
	}
	changes := (e.value(t, "hfi_config_updates_total") - updates) / float64(e.vms)
	t.Logf("%d requests in %s (%.0f a second), %d errors; %d commits (%.1f a second), of which each VM applied %.0f",
		total, elapsed.Round(time.Second), float64(total)/elapsed.Seconds(), errors, commits, float64(commits)/elapsed.Seconds(), changes)
	if changing := reports["/changing"].Statuses; changing[200] == 0 || changing[410] == 0 || changing[503] == 0 {
		t.Errorf("policy changing did not change: %v", changing)
	}
	if perSecond := changes / elapsed.Seconds(); perSecond < 2 {
		t.Errorf("only %.1f changes a second reached the filter", perSecond)
	}
	if total < requests {
		t.Errorf("only %d requests of %d in %s", total, requests, soakLimit)
	}
	memory.judge(t)
	soakLeavesNothing(t, e)
}

// soakLeavesNothing checks that all streams have ended, and that no metric counts
// an error.
func soakLeavesNothing(t *testing.T, e *sidecar) {
	t.Helper()
	const active = "envoy_http_downstream_rq_active"
	stats, err := e.WaitStats("no stream is left", envoytest.WaitLimit, func(s envoytest.Stats) bool {
		return s.Value("hfi_paused_streams") == 0 && s.Value(active, "envoy_http_conn_manager_prefix", "main") == 0
	})
	if err != nil {
		t.Errorf("%v: %v paused, %v active", err, stats.Value("hfi_paused_streams"), stats.Value(active, "envoy_http_conn_manager_prefix", "main"))
	}
	if !stats.Has("hfi_paused_streams") || !stats.Has(active) {
		t.Error("Envoy has no such metrics")
	}
	for _, metric := range []string{"hfi_panics_total", "hfi_config_poll_errors_total", "hfi_config_bad_policies_total"} {
		if value := stats.Value(metric); value != 0 {
			t.Errorf("%s is %v", metric, value)
		}
	}
}

// soakLoad sends all requests, while other clients disconnect in the middle of a
// delay. It returns the reports by path. For the number of requests see soak.
func soakLoad(t *testing.T, url string, requests int) map[string]*envoytest.Report {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reports := map[string]*envoytest.Report{}
	var mu sync.Mutex
	var ending, lasting sync.WaitGroup
	for _, path := range soakPaths {
		load := envoytest.Load{
			Request: envoytest.Request{URL: url + path.path}, Connections: 2, Duration: soakShort, Rate: path.rate,
			Check: func(status int, header http.Header, body []byte, elapsed time.Duration) error {
				if fault := header.Get("X-Hfi-Fault"); !path.check(status, fault, elapsed) {
					return fmt.Errorf("status %d by %q after %s: %.100q", status, fault, elapsed, body)
				}
				return nil
			},
		}
		if requests > 0 {
			load.Duration, load.Requests = soakLimit, requests/100*path.share
		}
		group := &ending
		if path.share == 0 {
			group, load.Connections, load.Duration = &lasting, 8, time.Hour
		}
		group.Go(func() {
			report, err := load.Run(ctx)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", path.path, err)
			}
			mu.Lock()
			defer mu.Unlock()
			reports[path.path] = report
		})
	}
	lasting.Go(func() { soakDisconnects(ctx, t, url+"/held") })
	ending.Wait()
	cancel()
	lasting.Wait()
	return reports
}

// soakDisconnects sends requests that disconnect in the middle of a delay, until the context ends.
func soakDisconnects(ctx context.Context, t *testing.T, url string) {
	c := envoytest.NewClient(false)
	defer c.Close()
	for ctx.Err() == nil {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		if answer, err := c.Get(short, url); err == nil {
			t.Errorf("a request that should be delayed got %d", answer.Status)
		}
		cancel()
	}
}

// soakMemory is Envoy's memory use during the soak.
type soakMemory struct {
	stop     chan struct{}
	done     chan struct{}
	resident []int64
	err      error
}

// soakWatch records Envoy's resident memory four times a second.
func soakWatch(t *testing.T, e *sidecar) *soakMemory {
	m := &soakMemory{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		ticker := time.NewTicker(250 * time.Millisecond)
		defer ticker.Stop()
		for {
			memory, err := e.Memory()
			if err != nil {
				m.err = err
				return
			}
			m.resident = append(m.resident, memory.Resident)
			select {
			case <-m.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	t.Cleanup(func() {
		select {
		case <-m.done:
		default:
			close(m.stop)
			<-m.done
		}
	})
	return m
}

func (m *soakMemory) end(t *testing.T) *soakMemory {
	t.Helper()
	close(m.stop)
	<-m.done
	if m.err != nil {
		t.Fatal(m.err)
	}
	return m
}

// judge compares the maximum memory in the second quarter, after warm-up, with that
// in the last one: a leak of six bytes a request would show.
func (m *soakMemory) judge(t *testing.T) {
	t.Helper()
	quarter := len(m.resident) / 4
	if quarter == 0 {
		t.Fatal("the soak was too short to measure memory")
	}
	var most [4]int64
	for i := range most {
		most[i] = slices.Max(m.resident[i*quarter : (i+1)*quarter])
	}
	t.Logf("Envoy's memory: %.1f MiB at first, then at most %.1f, %.1f, %.1f and %.1f in each quarter", mib(m.resident[0]), mib(most[0]), mib(most[1]), mib(most[2]), mib(most[3]))
	if grown := most[3] - most[1]; grown > soakGrowth {
		t.Errorf("Envoy's memory grew by %.1f MiB after warm-up", mib(grown))
	}
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
