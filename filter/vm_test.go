package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// Filters in an Envoy that would kill them inject nothing, and say so.
func TestAnOldEnvoyIsTold(t *testing.T) {
	h := start(t, frontendConfig, frontend, 1, 37)
	h.pass(time.Minute)
	if h.requests() != 0 || h.GetTickPeriod() != 0 {
		t.Error("it works all the same")
	}
	if logs := h.GetErrorLogs(); len(logs) != 1 || !strings.Contains(logs[0], "Envoy 1.37 is not supported: no faults are injected; the filter needs Envoy 1.39 or newer") {
		t.Errorf("it says %q", logs)
	}
	h.mustGet(200)
}

func TestANewEnoughEnvoyIsUsed(t *testing.T) {
	for _, version := range [][]uint64{{1, 39}, {1, 40}, {2, 0}, {0, 0}, nil} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			h := start(t, frontendConfig, frontend, version...)
			h.pass(time.Second)
			if h.requests() != 1 {
				t.Error("it does not ask")
			}
		})
	}
}

// Without an identity there is a warning that says what is missing, and
// the filter asks for what applies to any workload.
func TestAnUnknownIdentityIsWarnedOf(t *testing.T) {
	for _, c := range []struct {
		node           map[string]string
		query, warning string
	}{
		{map[string]string{"id": "n"}, "?service=&namespace=&", "no WORKLOAD_NAME and no NAMESPACE: only policies for any service in any namespace"},
		{map[string]string{"metadata.NAMESPACE": "demo"}, "?service=&namespace=demo&", "no WORKLOAD_NAME: only policies for any service"},
		{map[string]string{"metadata.WORKLOAD_NAME": "frontend"}, "?service=frontend&namespace=&", "no NAMESPACE: only policies for any namespace"},
	} {
		t.Run(c.query, func(t *testing.T) {
			h := start(t, frontendConfig, c.node)
			h.pass(time.Second)
			if path := h.request()[":path"]; !strings.Contains(path, c.query) {
				t.Errorf("it asks for %s", path)
			}
			if !slices.ContainsFunc(h.GetWarnLogs(), func(log string) bool { return strings.Contains(log, c.warning) }) {
				t.Errorf("it says %q", h.GetWarnLogs())
			}
		})
	}
	t.Run("known", func(t *testing.T) {
		if h := start(t, frontendConfig, frontend); len(h.GetWarnLogs()) != 0 {
			t.Errorf("with an identity it warns %q", h.GetWarnLogs())
		}
	})
}

// A panic on a request is counted, and the request goes on; so do those after it.
func TestAPanicOnARequestLetsItThrough(t *testing.T) {
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
		t.Errorf("%d panics are counted", n)
	}
}

// A panic on an answer, or on a tick, does not end the filter.
func TestAPanicElsewhereEndsNothing(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	good := h.vm.poll.vm
	h.vm.poll.vm = nil
	h.pass(maxWait)
	h.Tick()
	h.answer(304, "", nil)
	h.vm.poll.vm = good
	h.mustGet(503)
}

// An idle filter asks for no tick but for its policies' sake, and looks at no request.
func TestAnIdleFilterIsIdle(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	if h.vm.state() != 0 {
		t.Errorf("state %d", h.vm.state())
	}
	h.update("a")
	if h.vm.state() != 0 {
		t.Errorf("state %d without a policy", h.vm.state())
	}
	if period := h.GetTickPeriod(); period < 60_000 {
		t.Errorf("it wants a tick every %d ms", period)
	}
	h.update("b", 503)
	if h.vm.state() != stateActive {
		t.Errorf("state %d with a policy", h.vm.state())
	}
}

// What the page promises of settings that are not given.
func TestDefaults(t *testing.T) {
	want := config{Address: "h:1", StaleAfter: 10 * time.Minute, MaxDelay: 5 * time.Minute, FaultHeader: true}
	if got, problems := parseConfig([]byte(`{"control_plane_address":"h:1"}`)); got != want || len(problems) != 0 {
		t.Errorf("%+v, %v", got, problems)
	}
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":3600000}}]}}]}`, map[string]string{"etag": `"a"`})
	id := h.delay("/")
	// No answer comes. The delay ends, and later so do the policies.
	for _, step := range []struct {
		pass   time.Duration
		paused int
		active bool
	}{{5*time.Minute - time.Millisecond, 1, true}, {time.Millisecond, 0, true}, {5*time.Minute - time.Millisecond, 0, true}, {time.Millisecond, 0, false}} {
		h.pass(step.pass)
		h.mustPause(step.paused)
		if active := h.vm.state()&stateActive != 0; active != step.active {
			t.Errorf("after %s more, policies in force: %v", step.pass, active)
		}
	}
	h.CompleteHttpContext(id)
}

// Names of policies come and go, and Envoy forgets no metric: a VM makes no
// more than a thousand by policy, and counts what others do together.
func TestMetricsByPolicyAreBounded(t *testing.T) {
	h := start(t, `{"control_plane_cluster":"hfi","policy_tag":true}`, frontend)
	for i := range 1500 {
		h.vm.metrics.fault(metricAborts, fmt.Sprintf("p%d", i))
	}
	h.vm.metrics.fault(metricAborts, "p999")
	h.vm.metrics.fault(metricDelays, "p1000")
	for name, want := range map[string]uint64{
		"policy=.=p0;.;hfi.faults.aborts_total": 1, "policy=.=p999;.;hfi.faults.aborts_total": 2,
		"policy=.=_other;.;hfi.faults.aborts_total": 500, "policy=.=_other;.;hfi.faults.delays_total": 1,
	} {
		if got := h.counter(name); got != want {
			t.Errorf("%s is %d, and not %d", name, got, want)
		}
	}
	if _, err := h.GetCounterMetric("policy=.=p1000;.;hfi.faults.aborts_total"); err == nil {
		t.Error("the 1,001st policy has a metric of its own")
	}
}

func TestConfigurations(t *testing.T) {
	for _, c := range []struct {
		text     string
		change   func(*config)
		problems int
	}{
		{`{"control_plane_cluster":"x"}`, func(c *config) { c.Cluster = "x" }, 0},
		{`{"control_plane_address":"http://h:1/"}`, func(c *config) { c.Address = "h:1" }, 0},
		{`{"control_plane_address":"h:1/v1"}`, func(c *config) {}, 2},
		{`{"control_plane_address":"h","stale_after":"90s","max_delay":1.5}`,
			func(c *config) { c.Address, c.StaleAfter, c.MaxDelay = "h", 90*time.Second, 1500*time.Millisecond }, 0},
		{`{"control_plane_cluster":"x","fault_header":false,"fault_health_probes":true,"policy_tag":true}`,
			func(c *config) { c.Cluster, c.FaultHeader, c.FaultProbes, c.PolicyTag = "x", false, true, true }, 0},
		{`{"control_plane_cluster":"x","stale_after":"soon"}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{"control_plane_cluster":"x","stale_after":-1,"max_delay":0}`, func(c *config) { c.Cluster = "x" }, 2},
		{`{"control_plane_cluster":"x","max_delay":[]}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{"control_plane_cluster":"x","unknown":1}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{}`, func(c *config) {}, 1},
		{``, func(c *config) {}, 1},
		{`null`, func(c *config) {}, 1},
		{`[1]`, func(c *config) {}, 1},
	} {
		want := defaultConfig()
		c.change(&want)
		got, problems := parseConfig([]byte(c.text))
		if got != want || len(problems) != c.problems {
			t.Errorf("%s: %+v, %v", c.text, got, problems)
		}
	}
}

func TestTheControlPlanesClusters(t *testing.T) {
	for _, c := range []struct {
		config config
		want   []string
	}{
		{config{Cluster: "x", Address: "h:1"}, []string{"x"}},
		{config{Address: "hfi-control-plane.boifi:8080"}, []string{"outbound|8080||hfi-control-plane.boifi.svc.cluster.local", "hfi-control-plane.boifi:8080", "hfi-control-plane.boifi"}},
		{config{Address: "c.n.svc:90"}, []string{"outbound|90||c.n.svc.cluster.local", "c.n.svc:90", "c.n.svc"}},
		{config{Address: "c.n.svc.cluster.local"}, []string{"outbound|8080||c.n.svc.cluster.local", "c.n.svc.cluster.local", "c.n.svc.cluster.local"}},
		{config{Address: "hfi.example.com:80"}, []string{"outbound|80||hfi.example.com", "hfi.example.com:80", "hfi.example.com"}},
		{config{Address: "hfi:80"}, []string{"outbound|80||hfi", "hfi:80", "hfi"}},
	} {
		if got := c.config.clusters(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.config, got)
		}
	}
}
