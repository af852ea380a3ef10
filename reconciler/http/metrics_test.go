package http

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/version"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/schema"
)

// sample is the value of a metric, named with its labels.
func (d *daemon) sample(name string) string {
	d.t.Helper()
	for line := range strings.Lines(d.ask("GET /metrics").expect(d.t, 200).body) {
		if value, found := strings.CutPrefix(strings.TrimSuffix(line, "\n"), name+" "); found {
			return value
		}
	}
	return ""
}

// buildInfoSeries is the series hfi_build_info of this test binary.
func buildInfoSeries() string {
	build := version.Get()
	return fmt.Sprintf("hfi_build_info{goarch=%q,goos=%q,goversion=%q,revision=%q,version=%q}",
		runtime.GOARCH, runtime.GOOS, runtime.Version(), build.Commit, build.Version)
}

// The linter of Prometheus accepts a scrape in which every metric has a value.
func TestMetrics(t *testing.T) {
	d := start(t, func(s *Server) { s.TriggerGap = time.Millisecond })
	for _, absent := range []string{"hfi_last_sync_success_timestamp_seconds", "hfi_drift_items", "hfi_served_policies"} {
		if got := d.sample(absent); got != "" {
			t.Errorf("%s is %s before the first state", absent, got)
		}
	}
	if got := d.sample(`hfi_syncs_total{outcome="Applied"}`); got != "0" {
		t.Errorf("hfi_syncs_total is %q before the first attempt", got)
	}
	var observer reconciler.Observer = d.Metrics
	observer.Synced("Applied", 20*time.Millisecond)
	observer.Synced("Applied", 40*time.Millisecond)
	observer.Synced("Invalid", 2*time.Second)
	observer.Failed("git", "BranchMissing")
	observer.Failed("etcd", "Unreachable")
	observer.Failed("etcd", "Unreachable")
	observer.Failed("moon", "Full")
	at := time.UnixMilli(1_700_000_000_500)
	d.view.set(func(v *fakeView) {
		v.state.Sync.LastSuccessAt = &at
		v.state.Drift = api.Drift{Status: api.DriftDetected, Total: 3}
	})
	d.serve(stateOf(1, schema.NewSet()))
	d.serve(stateOf(2, exampleSet()))
	d.ask("GET /v1/policies").expect(t, 200)
	d.ask("GET /v1/policies/all").expect(t, 200)
	d.ask("GET /v1/policies/front-demo").expect(t, 200)
	for i := range 3 {
		d.ask(fmt.Sprintf("GET /made/up/%d", i)).expect(t, 404)
	}
	d.ask("POST /v1/reconcile")
	woken := d.begin(frontendWaits, "If-None-Match", "*")
	d.waiting(1)
	waiting := d.sample("hfi_http_waiting_clients")
	d.serve(stateOf(3, exampleSet().With([]*schema.Entry{entry("all", "", "", 9)}, nil)))
	d.await(woken).expect(t, 200)
	eventually(t, "the trigger is counted", func() bool { return d.sample(`hfi_triggers_total{outcome="ok"}`) == "1" })
	digest := exampleSet().With([]*schema.Entry{entry("all", "", "", 9)}, nil).Digest()
	for name, want := range map[string]string{
		`hfi_syncs_total{outcome="Applied"}`:                                  "2",
		`hfi_syncs_total{outcome="Invalid"}`:                                  "1",
		`hfi_sync_duration_seconds_count`:                                     "3",
		`hfi_sync_duration_seconds_sum`:                                       "2.06",
		`hfi_sync_duration_seconds_bucket{le="0.025"}`:                        "1",
		`hfi_git_errors_total{reason="BranchMissing"}`:                        "1",
		`hfi_etcd_errors_total{reason="Unreachable"}`:                         "2",
		`hfi_last_sync_success_timestamp_seconds`:                             "1.7000000005e+09",
		`hfi_drift_items`:                                                     "3",
		`hfi_served_policies`:                                                 "5",
		fmt.Sprintf(`hfi_served_info{commit="%040x",digest="%s"}`, 3, digest): "1",
		`hfi_http_wakeups_total`:                                              "1",
		`hfi_http_waiting_clients`:                                            "0",
		`hfi_http_requests_total{code="200",route="/v1/policies"}`:            "2",
		`hfi_http_requests_total{code="200",route="/v1/policies/{name}"}`:     "2",
		`hfi_http_requests_total{code="404",route="other"}`:                   "3",
		`hfi_http_requests_total{code="202",route="/v1/reconcile"}`:           "1",
		`hfi_triggers_total{outcome="failed"}`:                                "0",
		buildInfoSeries():                                                     "1",
	} {
		if got := d.sample(name); got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	if waiting != "1" {
		t.Errorf("hfi_http_waiting_clients is %q while one client waits", waiting)
	}
	scrape := d.ask("GET /metrics").body
	if got := strings.Count(scrape, "\nhfi_served_info{"); got != 1 {
		t.Errorf("there are %d hfi_served_info, want 1", got)
	}
	if strings.Contains(scrape, "moon") || strings.Contains(scrape, "Full") || strings.Contains(scrape, "/made/up") {
		t.Error("a label has a value that a client invented")
	}
	problems, err := promlint.New(strings.NewReader(scrape)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range problems {
		t.Errorf("promlint: %s: %s", problem.Metric, problem.Text)
	}
	for line := range strings.Lines(scrape) {
		if name, found := strings.CutPrefix(line, "# TYPE "); found && !strings.HasPrefix(name, "hfi_") && !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			t.Errorf("%s has an unexpected prefix", name)
		}
	}
	d.view.set(func(v *fakeView) { v.state.Drift = api.Drift{Status: api.DriftUnknown, Total: 3} })
	if got := d.sample("hfi_drift_items"); got != "" {
		t.Errorf("hfi_drift_items is %s while drift is unknown", got)
	}
}

// A scrape sends no request to a peer: it shows the filters of the last merged
// status, and none before the first one.
func TestScrapeAsksNoPeer(t *testing.T) {
	var asked atomic.Int64
	peer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"replica":"b","filters":[{"node":"n","pod":"p","service":"s","namespace":"demo","vms":[{"id":"1","state":"waiting","digest":"old"}]}]}`)
	}))
	defer peer.Close()
	d := start(t, func(s *Server) {
		s.fleet.ID = "a"
		s.fleet.Replicas = func() fleet.Replicas {
			return fleet.Replicas{List: []api.Replica{{ID: "a"}, {ID: "b", URL: peer.URL}}}
		}
	})
	d.serve(stateOf(1, exampleSet()))
	sample := func() string {
		return d.sample(`hfi_filters{state="behind"}`) + d.sample(`hfi_filters{state="current"}`) + d.sample("hfi_filters_complete")
	}
	if got := sample(); got != "" || asked.Load() != 0 {
		t.Errorf("before any status, the metrics are %q after %d requests to the peer", got, asked.Load())
	}
	d.awaitFilters(0, 1, 0)
	before := asked.Load()
	for range 10 {
		if got := sample(); got != "101" {
			t.Errorf("the metrics are %q, want one filter behind, none current, and a complete list", got)
		}
	}
	if got := asked.Load() - before; before == 0 || got != 0 {
		t.Errorf("scrapes sent %d requests to the peer, and the status %d", got, before)
	}
}

// The number of values of a label is bounded.
func TestMetricsAreBounded(t *testing.T) {
	d := start(t, nil)
	for i := range 1000 {
		d.Metrics.Failed("git", fmt.Sprint("Reason", i))
		d.Metrics.Failed("etcd", fmt.Sprint("no route to 10.0.0.", i))
		d.Metrics.Synced(fmt.Sprint("Outcome", i), 0)
	}
	for i := range 300 {
		d.ask(fmt.Sprintf("WEIRD%d /x%d", i, i)).expect(t, 404)
	}
	scrape := d.ask("GET /metrics").body
	if got := strings.Count(scrape, "\nhfi_"); got > 200 {
		t.Errorf("there are %d series", got)
	}
	if got := d.sample(`hfi_etcd_errors_total{reason="Other"}`); got != "1000" {
		t.Errorf("Other counts %s", got)
	}
	if got := d.sample(`hfi_git_errors_total{reason="Other"}`); got != "950" {
		t.Errorf("Other counts %s", got)
	}
}
