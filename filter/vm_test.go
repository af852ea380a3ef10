package main

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
)

// refused checks that the filter tells the daemon why it does nothing, waits there as any
// other, and does nothing.
func (h *host) refused(why string) {
	h.t.Helper()
	h.pass(time.Second)
	for _, tag := range []string{"a", "b"} {
		if request := h.request(); request["x-hfi-error"] != why {
			h.t.Fatalf("the request has %q, want %q", request, why)
		}
		h.update(tag, 503)
		h.mustGet(200)
		if got := h.request()["if-none-match"]; got != `"`+tag+`"` {
			h.t.Errorf("the next request has the tag %q, want %q", got, tag)
		}
	}
	if h.gauge("hfi.policies_loaded") != 0 {
		h.t.Error("policies are in force")
	}
	h.pass(time.Hour)
	if value, err := h.GetGaugeMetric("hfi.config.stale"); err == nil && value != 0 {
		h.t.Error("policies that were never in force are stale")
	}
}

// TestPanicOnRequest checks that a panic is counted, and that this request and later ones continue.
func TestPanicOnRequest(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, `{"policies":[{"metadata":{"name":"p"},"spec":{"expires_at":"2999-01-01T00:00:00Z","rules":[{"fault":{"abort":{"status":503}}}]}}]}`,
		map[string]string{"etag": `"a"`})
	h.mustGet(503)
	good := h.vm.request.now
	h.vm.request.now = func() time.Time { panic("on purpose") }
	h.mustGet(200)
	h.vm.request.now = good
	h.mustGet(503)
	if n := h.counter(metricPanics); n != 1 {
		t.Errorf("the metric counts %d panics", n)
	}
}

// TestPanicOnResponseOrTick checks that the filter works after a panic on a response or a tick.
func TestPanicOnResponseOrTick(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	good := h.poll().vm
	h.poll().vm = nil
	h.pass(maxWait)
	h.Tick()
	h.answer(304, "", nil)
	h.poll().vm = good
	h.mustGet(503)
}

// TestIdleFilter checks that an idle filter sets ticks only for its polling and its signs of life,
// and needs no requests.
func TestIdleFilter(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	if h.vm.state() != 0 {
		t.Errorf("state %d", h.vm.state())
	}
	h.update("a")
	if h.vm.state() != 0 {
		t.Errorf("state %d without a policy", h.vm.state())
	}
	for range 10 {
		h.pass(time.Duration(h.GetTickPeriod()) * time.Millisecond)
		if period := time.Duration(h.GetTickPeriod()) * time.Millisecond; period < signPeriod/2 {
			t.Errorf("the tick period is %s", period)
		}
	}
	h.update("b", 503)
	if h.vm.state() != stateActive {
		t.Errorf("state %d with a policy", h.vm.state())
	}
}

// TestRequestsOfFiltersAreExempt checks that a filter's requests to the daemon get no faults,
// whether or not the policy compares the path.
func TestRequestsOfFiltersAreExempt(t *testing.T) {
	for _, match := range []string{`{}`, `{"path":{"prefix":"/"}}`} {
		t.Run(match, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.answer(200, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"match":`+match+`,"fault":{"abort":{"status":503}}}]}}]}`,
				map[string]string{"etag": `"a"`})
			for _, c := range []struct {
				path   string
				own    bool
				status int
			}{
				{"/v1/policies?service=a&namespace=b", true, 200}, {"/v1/policies?service=a&namespace=b", false, 503},
				{"/other", true, 503}, {"/other", false, 503},
			} {
				headers := [][2]string{{":method", "GET"}, {":path", c.path}}
				if c.own {
					headers = append(headers, [2]string{"x-hfi-vm", "1"})
				}
				id := h.InitializeHttpContext()
				h.CallOnRequestHeaders(id, headers, true)
				status := 200
				if response := h.GetSentLocalResponse(id); response != nil {
					status = int(response.StatusCode)
				}
				if status != c.status {
					t.Errorf("%s by a filter (%v): status %d, want %d", c.path, c.own, status, c.status)
				}
				h.CompleteHttpContext(id)
			}
		})
	}
}

// TestFaultsAreWrittenOnATick checks that faults are counted without a call to the host for
// each, by one tick that is set only while some are not written.
func TestFaultsAreWrittenOnATick(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	idle := h.GetTickPeriod()
	for range 10 {
		h.mustGet(503)
	}
	h.armed = h.at
	for _, step := range []struct {
		pass  time.Duration
		count uint64
	}{{0, 0}, {writeFaultsAfter - time.Millisecond, 0}, {time.Millisecond, 10}} {
		h.pass(step.pass)
		if got := h.counter(metricAborts); got != step.count {
			t.Errorf("after another %s: %d aborts, want %d", step.pass, got, step.count)
		}
	}
	if period := h.GetTickPeriod(); period < idle/2 {
		t.Errorf("the tick period is %d ms after the faults are written, %d ms before them", period, idle)
	}
	if lines := strings.Join(h.GetDebugLogs(), "\n"); strings.Count(lines, "faults since") != 1 || !strings.Contains(lines, "10 aborts by p0") {
		t.Errorf("the debug log is %q", lines)
	}
	h.mustGet(503)
	h.vm.stopPlugin(proxytest.PluginContextID)
	if got := h.counter(metricAborts); got != 11 {
		t.Errorf("after the end of the plugin context: %d aborts", got)
	}
}

// TestFaultsOfManyPolicies checks that faults that are not written yet take little memory.
func TestFaultsOfManyPolicies(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	for i := range 10 * maxFaults {
		h.vm.count(dryRunDelays, fmt.Sprintf("p%d", i), h.vm.plugins[0])
		if n := len(h.vm.metrics.faults); n > maxFaults {
			t.Fatalf("%d counts are kept", n)
		}
	}
	h.vm.writeFaults()
	if lines := strings.Join(h.GetDebugLogs(), "\n"); strings.Count(lines, " dry-run delays by p") != 10*maxFaults {
		t.Errorf("the debug log is %q", lines)
	}
	if got := h.counter(metricDryRunDelays); got != 10*maxFaults {
		t.Errorf("%d dry-run delays", got)
	}
}

// TestMetricsByPolicyAreBounded checks that a VM has metrics for at most 1,000 policies, because
// Envoy never removes a metric, and counts the others together.
func TestMetricsByPolicyAreBounded(t *testing.T) {
	h := start(t, `{"control_plane_cluster":"hfi","policy_tag":true}`, frontend)
	for i := range 1500 {
		h.vm.metrics.fault(aborts, fmt.Sprintf("p%d", i), true)
	}
	h.vm.metrics.fault(aborts, "p999", true)
	h.vm.metrics.fault(delays, "p1000", true)
	h.vm.writeFaults()
	for name, want := range map[string]uint64{
		"policy=.=p0;.;hfi.faults.aborts_total": 1, "policy=.=p999;.;hfi.faults.aborts_total": 2,
		"policy=.=_other;.;hfi.faults.aborts_total": 500, "policy=.=_other;.;hfi.faults.delays_total": 1,
	} {
		if got := h.counter(name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
	if _, err := h.GetCounterMetric("policy=.=p1000;.;hfi.faults.aborts_total"); err == nil {
		t.Error("the 1,001st policy has its own metric")
	}
}

// TestReplacedProgramsAreFreed checks that neither the counts of faults nor the requests that are
// delayed keep the text of programs that have been replaced.
func TestReplacedProgramsAreFreed(t *testing.T) {
	const programs, rules, size = 100, 50, 4000
	h := start(t, `{"control_plane_cluster":"hfi","policy_tag":true}`, frontend)
	heap := func() int64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return int64(stats.HeapAlloc)
	}
	before := heap()
	for i := range programs {
		policy := func(name, faults string) string {
			return fmt.Sprintf(`{"metadata":{"name":"%s%d"},"spec":{"rules":[%s]}}`, name, i, faults)
		}
		body := strings.Repeat("x", size)
		text := compile(t, `{"policies":[`+strings.Join([]string{
			policy("abort", `{"match":{"path":{"exact":"/abort"}},"fault":{"abort":{"status":503}}}`),
			policy("both", `{"match":{"path":{"exact":"/both"}},"fault":{"delay_ms":60000,"abort":{"status":503,"headers":{"x-name":"value"}}}}`),
			policy("large", strings.TrimSuffix(strings.Repeat(`{"match":{"path":{"exact":"/large"}},"fault":{"abort":{"status":503,"body":"`+body+`"}}},`, rules), ",")),
		}, ",")+`]}`)
		read, err := program.Read([]byte(text), h.poll().workload())
		if err != nil {
			t.Fatal(err)
		}
		h.poll().enforce(read)
		h.delay("/abort")
		h.delay("/both")
		h.vm.writeFaults()
	}
	h.poll().enforce(new(program.Program))
	if kept := heap() - before; kept > programs*rules*size/4 {
		t.Errorf("%d bytes are kept of %d programs with %d bytes of text each", kept, programs, rules*size)
	}
	if n := len(h.vm.paused.streams); n != programs {
		t.Errorf("%d requests are delayed", n)
	}
}
