package envoy

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// The tests below check what the other tests compare with: Envoy itself, its own
// fault filter, and a module that does nothing.

// TestRequestsPassThroughAPlainEnvoy sends requests over each combination of protocols.
func TestRequestsPassThroughAPlainEnvoy(t *testing.T) {
	upstream := envoytest.RunUpstream(t)
	e := envoytest.Run(t, envoytest.Config{
		Clusters: []envoytest.Cluster{
			{Name: "http1", Address: upstream.Address},
			{Name: "http2", Address: upstream.Address, HTTP2: true},
		},
		Listeners: []envoytest.Listener{
			{AccessLog: "%REQ(:PATH)% %RESPONSE_CODE% %PROTOCOL%"},
			{Name: "second", Routes: []envoytest.Route{{Prefix: "/direct", Status: 204}, {Cluster: "http2", Timeout: 300 * time.Millisecond}}},
		},
	})
	first, second := e.URL(), e.ListenerURL("second")
	for _, way := range []struct {
		name, url    string
		http2        bool
		from, beyond string
	}{
		{"HTTP/1.1 to HTTP/1.1", first, false, "HTTP/1.1", "HTTP/1.1"},
		{"HTTP/2 to HTTP/1.1", first, true, "HTTP/2.0", "HTTP/1.1"},
		{"HTTP/1.1 to HTTP/2", second, false, "HTTP/1.1", "HTTP/2.0"},
		{"HTTP/2 to HTTP/2", second, true, "HTTP/2.0", "HTTP/2.0"},
	} {
		t.Run(way.name, func(t *testing.T) {
			answer, err := client(t, way.http2).Do(context.Background(), envoytest.Request{
				Method: "POST", URL: way.url + "/a?status=201", Header: http.Header{"X-One": {"1", "2"}}, Body: "text",
			})
			if err != nil {
				t.Fatal(err)
			}
			var echo envoytest.Echo
			if err := json.Unmarshal([]byte(answer.Body), &echo); err != nil {
				t.Fatalf("%v: %s", err, answer.Body)
			}
			if answer.Status != 201 || answer.Proto != way.from || echo.Proto != way.beyond {
				t.Errorf("status %d by %s, and %s behind Envoy", answer.Status, answer.Proto, echo.Proto)
			}
			if echo.Method != "POST" || echo.Path != "/a?status=201" || echo.Body != "text" || strings.Join(echo.Headers["X-One"], ",") != "1,2" {
				t.Errorf("the upstream saw %+v", echo)
			}
		})
	}
	t.Run("stream", func(t *testing.T) {
		answer := get(t, client(t, false), first+"/stream?chunks=4&gap=200ms")
		if want := "chunk 0\nchunk 1\nchunk 2\nchunk 3\n"; answer.Body != want {
			t.Errorf("the body is %q", answer.Body)
		}
		if answer.Total-answer.Elapsed < 100*time.Millisecond {
			t.Errorf("the headers came after %s and the last of the body after %s: it was not streamed", answer.Elapsed, answer.Total)
		}
	})
	t.Run("gRPC", func(t *testing.T) {
		answer, err := client(t, true).GRPC(context.Background(), second+"/service/Method", "hello", nil)
		if err != nil {
			t.Fatal(err)
		}
		if status, _ := answer.GRPCStatus(); status != "0" || answer.Body != "\x00\x00\x00\x00\x05hello" {
			t.Errorf("status %q, message %q", status, answer.Body)
		}
	})
	t.Run("timeout of a route", func(t *testing.T) {
		if answer := get(t, client(t, false), second+"/slow?for=30s"); answer.Status != 504 {
			t.Errorf("status %d where the upstream takes longer than the route allows", answer.Status)
		}
	})
	t.Run("direct response of a route", func(t *testing.T) {
		upstream.Reset()
		if answer := get(t, client(t, false), second+"/direct"); answer.Status != 204 || upstream.Count() != 0 {
			t.Errorf("status %d, and the upstream saw %d requests", answer.Status, upstream.Count())
		}
	})
	if err := e.WaitAccessLog("main", "/stream?chunks=4&gap=200ms 200 HTTP/1.1\n", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	stats, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if got := stats.Value("envoy_http_downstream_rq_xx", "envoy_http_conn_manager_prefix", "main", "envoy_response_code_class", "2"); got != 3 {
		t.Errorf("Envoy counted %v answers 2xx on the first listener, not 3", got)
	}
}

// TestNativeFaultFilter checks the oracle: the faults of Envoy's own filter, for
// all requests and for a percentage.
func TestNativeFaultFilter(t *testing.T) {
	upstream := envoytest.RunUpstream(t)
	half := envoytest.NativeFault{AbortStatus: 503, AbortPPM: 500_000}
	matched := envoytest.AlwaysAbort(503)
	matched.Headers = []map[string]any{{"name": "x-user", "string_match": map[string]any{"exact": "tester"}}}
	perRoute := envoytest.AlwaysAbort(418)
	e := envoytest.Run(t, envoytest.Config{
		Clusters: []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}},
		Listeners: []envoytest.Listener{
			{Name: "abort", Filters: []envoytest.Filter{envoytest.AlwaysAbort(503).Filter()}},
			{Name: "delay", Filters: []envoytest.Filter{envoytest.AlwaysDelay(200 * time.Millisecond).Filter()}},
			{Name: "half", Filters: []envoytest.Filter{half.Filter()}},
			{Name: "matched", Filters: []envoytest.Filter{matched.Filter()}},
			{Name: "grpc", Filters: []envoytest.Filter{envoytest.NativeFault{AbortGRPC: 14, AbortPPM: 1_000_000}.Filter()}},
			{Name: "routed", Filters: []envoytest.Filter{envoytest.NativeFault{}.Filter()}, Routes: []envoytest.Route{
				{Prefix: "/tea", PerFilter: map[string]map[string]any{envoytest.NativeFaultName: perRoute.Config()}}, {},
			}},
		},
	})
	c := client(t, false)

	if answer := get(t, c, e.ListenerURL("abort")); answer.Status != 503 || answer.Body != "fault filter abort" {
		t.Errorf("abort: %d %q", answer.Status, answer.Body)
	}
	if count := upstream.Count(); count != 0 {
		t.Errorf("the upstream saw %d aborted requests", count)
	}
	// It may end some milliseconds early: see filter/README.md.
	if answer := get(t, c, e.ListenerURL("delay")); answer.Status != 200 || answer.Elapsed < 180*time.Millisecond {
		t.Errorf("delay: %d after %s", answer.Status, answer.Elapsed)
	}
	if answer := get(t, c, e.ListenerURL("matched")); answer.Status != 200 {
		t.Errorf("without the matching header: %d", answer.Status)
	}
	answer, err := c.Do(context.Background(), envoytest.Request{URL: e.ListenerURL("matched"), Header: http.Header{"X-User": {"tester"}}})
	if err != nil || answer.Status != 503 {
		t.Errorf("with the matching header: %+v, %v", answer, err)
	}
	answer, err = client(t, true).GRPC(context.Background(), e.ListenerURL("grpc"), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if status, message := answer.GRPCStatus(); status != "14" || message != "fault filter abort" {
		t.Errorf("gRPC abort: %q %q", status, message)
	}
	if tea, other := get(t, c, e.ListenerURL("routed")+"/tea"), get(t, c, e.ListenerURL("routed")); tea.Status != 418 || other.Status != 200 {
		t.Errorf("by route: %d and %d", tea.Status, other.Status)
	}

	// Half of 4000, plus or minus five standard deviations of 32: fewer than one false failure in a million runs.
	report := load(t, envoytest.Load{Request: envoytest.Request{URL: e.ListenerURL("half") + "/ok"}, Requests: 4000})
	if got := report.Statuses[503]; got < 2000-158 || got > 2000+158 || report.Answers() != 4000 {
		t.Errorf("a fault for half of the requests: %s", report)
	}
}

// TestEmptyModulePassesRequests checks the module that benchmarks take as the
// minimum cost of a Wasm filter: Envoy loads it and calls it for each request, as
// any other filter.
func TestEmptyModulePassesRequests(t *testing.T) {
	upstream := envoytest.RunUpstream(t)
	file := emptyModule(t, "proxy_on_response_headers", "proxy_on_done", "proxy_on_log")
	e := envoytest.Run(t, envoytest.Config{
		Concurrency: 2,
		Clusters:    []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}},
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{
			// If it did not load, no request would pass.
			envoytest.Wasm{File: file, Configuration: map[string]any{"any": "thing"}, FailurePolicy: "FAIL_CLOSED"}.Filter(),
		}}},
	})
	report := load(t, envoytest.Load{Request: envoytest.Request{URL: e.URL() + "/ok"}, Requests: 2000})
	if report.Statuses[200] != 2000 || upstream.Count() != 2000 {
		t.Errorf("%s; the upstream saw %d", report, upstream.Count())
	}
	stats, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if active := stats.Value("envoy_wasm_envoy_wasm_runtime_v8_active"); active < 3 {
		t.Errorf("%v VMs are active: there must be one for the main thread and for each of two workers", active)
	}

	// The engine traces each call of a function that the module has.
	if err := e.SetLogLevel("wasm", "trace"); err != nil {
		t.Fatal(err)
	}
	if answer := get(t, client(t, true), e.URL()+"/traced"); answer.Status != 200 {
		t.Errorf("status %d", answer.Status)
	}
	for _, call := range []string{
		"proxy_on_context_create", "proxy_on_request_headers", "proxy_on_response_headers", "proxy_on_done", "proxy_on_log", "proxy_on_delete",
	} {
		if err := e.WaitLog("[host->vm] "+call+"(", envoytest.WaitLimit); err != nil {
			t.Error(err)
		}
	}
}

// TestHarnessReportsAnEnvoyThatExits checks the harness with an Envoy that exits by
// itself, and with one that never starts.
func TestHarnessReportsAnEnvoyThatExits(t *testing.T) {
	config := envoytest.Config{
		Binary:    testtool.Path(t, "envoy"),
		Listeners: []envoytest.Listener{{Routes: []envoytest.Route{{Status: 200}}}},
	}
	e, err := envoytest.Start(config, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Admin("POST", "/quitquitquit"); err != nil {
		t.Error(err)
	}
	if err := e.WaitExit(envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	if err := e.Stop(); err == nil || !strings.Contains(err.Error(), "ended unexpectedly") {
		t.Errorf("Stop returned %v for an Envoy that had exited", err)
	}

	config.Listeners[0].Filters = []envoytest.Filter{{Name: "none", Config: map[string]any{"@type": "type.googleapis.com/no.such.Filter"}}}
	if _, err := envoytest.Start(config, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no.such.Filter") {
		t.Errorf("Start returned %v for a configuration that Envoy rejects", err)
	}
}
