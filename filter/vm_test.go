package main

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
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

// TestOldEnvoy checks that the filter does nothing in an Envoy that is too old, and says this
// in the log and to the daemon.
func TestOldEnvoy(t *testing.T) {
	const why = "Envoy 1.31 is not supported: no faults are injected; the filter needs Envoy 1.32 or newer"
	h := start(t, frontendConfig, frontend, 1, 31)
	if logs := h.GetErrorLogs(); len(logs) != 1 || !strings.Contains(logs[0], why) {
		t.Errorf("the log is %q", logs)
	}
	h.pass(time.Second)
	if request := h.request(); request["x-hfi-envoy"] != "1.31" {
		t.Errorf("the request has %q", request)
	}
	h.refused(why)
}

// TestUselessSettings checks that a filter that does not know the daemon's address asks where it
// usually is.
func TestUselessSettings(t *testing.T) {
	for config, why := range map[string]string{
		`{}`:             "neither control_plane_address nor control_plane_cluster is set: the filter gets no policies",
		"[\n\"\u00e9\"]": "the configuration is not a JSON object: ",
	} {
		t.Run(config, func(t *testing.T) {
			h := start(t, config, frontend, 1, 40)
			if logs := strings.Join(h.GetErrorLogs(), ""); !strings.Contains(logs, why) {
				t.Errorf("the log is %q", logs)
			}
			h.pass(time.Second)
			got := h.request()["x-hfi-error"]
			if !strings.HasPrefix(got, why) {
				t.Errorf("the request says %q, want %q", got, why)
			}
			if strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) || len(got) > maxHeaderText {
				t.Errorf("%q is not fit for a header", got)
			}
			h.refused(got)
		})
	}
}

func TestSupportedEnvoys(t *testing.T) {
	for _, version := range [][]uint64{{1, 32}, {1, 40}, {2, 0}, {0, 0}, nil} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			h := start(t, frontendConfig, frontend, version...)
			h.pass(time.Second)
			if h.requests() != 1 {
				t.Error("the filter sends no request")
			}
		})
	}
}

// TestUnknownIdentity checks that the filter warns of missing metadata, and requests the policies
// that apply to any workload.
func TestUnknownIdentity(t *testing.T) {
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
				t.Errorf("the path is %s", path)
			}
			if !slices.ContainsFunc(h.GetWarnLogs(), func(log string) bool { return strings.Contains(log, c.warning) }) {
				t.Errorf("the log is %q", h.GetWarnLogs())
			}
		})
	}
	t.Run("known", func(t *testing.T) {
		if h := start(t, frontendConfig, frontend); len(h.GetWarnLogs()) != 0 {
			t.Errorf("warnings with a known identity: %q", h.GetWarnLogs())
		}
	})
}

// TestGatewayIdentity checks which gateway's policies the filter requests, and what it warns of.
func TestGatewayIdentity(t *testing.T) {
	router := func(more ...string) map[string]string {
		node := map[string]string{"id": "router~10.0.0.1~in-1.mesh~mesh.svc.cluster.local"}
		for i := 0; i < len(more); i += 2 {
			node[more[i]] = more[i+1]
		}
		return node
	}
	named := `{"control_plane_cluster": "hfi", "gateway": "edge&1", "namespace": "infra"}`
	for _, c := range []struct {
		config         string
		node           map[string]string
		query, warning string
	}{
		{named, map[string]string{"id": "n"}, "?gateway=edge%261&namespace=infra&", ""},
		{named, frontend, "?gateway=edge%261&namespace=demo&", ""},
		{named, router("metadata.WORKLOAD_NAME", "ingress", "metadata.NAMESPACE", "mesh"), "?gateway=edge%261&namespace=mesh&", ""},
		{`{"control_plane_cluster": "hfi", "gateway": "edge"}`, map[string]string{"id": "n"}, "?gateway=edge&namespace=&", "no NAMESPACE: only policies for any namespace"},
		{frontendConfig, router("metadata.WORKLOAD_NAME", "ingress", "metadata.NAMESPACE", "mesh"), "?gateway=ingress&namespace=mesh&", ""},
		{frontendConfig, router("metadata.WORKLOAD_NAME", "in-istio", "metadata.NAMESPACE", "mesh", "metadata.LABELS/gateway.networking.k8s.io/gateway-name", "in"), "?gateway=in&namespace=mesh&", ""},
		{frontendConfig, router("metadata.NAMESPACE", "mesh"), "?gateway=&namespace=mesh&", "no WORKLOAD_NAME: only policies for any gateway"},
		{frontendConfig, router(), "?gateway=&namespace=&", "no WORKLOAD_NAME and no NAMESPACE: only policies for any gateway in any namespace"},
	} {
		t.Run(c.query, func(t *testing.T) {
			h := start(t, c.config, c.node)
			h.pass(time.Second)
			if path := h.request()[":path"]; !strings.Contains(path, c.query) {
				t.Errorf("the path is %s", path)
			}
			if logs := h.GetWarnLogs(); c.warning == "" && len(logs) > 0 || !strings.Contains(strings.Join(logs, ""), c.warning) {
				t.Errorf("the log is %q", logs)
			}
			h.answer(200, `{"policies":[{"metadata":{"name":"a"},"spec":{"rules":[{"fault":{"abort":{"status":501}}}]}},`+
				`{"metadata":{"name":"b"},"spec":{"selector":{"gateway":"*"},"rules":[{"match":{"to":{"service":"cart"}},"fault":{"abort":{"status":502}}}]}}]}`, map[string]string{"etag": `"a"`})
			for service, status := range map[string]int{"cart": 502, "pay": 200} {
				if err := h.SetProperty([]string{"xds", "cluster_name"}, []byte("outbound|80||"+service+".demo.svc.cluster.local")); err != nil {
					t.Fatal(err)
				}
				h.mustGet(status)
			}
		})
	}
}

// TestDirectionGateway checks that a filter for a gateway injects nothing in an Envoy that is none,
// where its requests would be those that a workload sends.
func TestDirectionGateway(t *testing.T) {
	const forGateways = `{"control_plane_cluster": "hfi", "direction": "gateway"}`
	policies := `{"policies":[{"metadata":{"name":"a"},"spec":{"selector":{"gateway":"*"},"rules":[{"fault":{"abort":{"status":502}}}]}},` +
		`{"metadata":{"name":"b"},"spec":{"rules":[{"fault":{"abort":{"status":501}}}]}}]}`
	for name, c := range map[string]struct {
		node   map[string]string
		status int
		why    string
	}{
		"gateway":  {map[string]string{"id": "router~10.0.0.1~in-1.mesh~mesh.svc.cluster.local", "metadata.WORKLOAD_NAME": "in", "metadata.NAMESPACE": "mesh"}, 502, ""},
		"workload": {frontend, 200, `setting direction: "gateway" and this Envoy is no gateway: no faults are injected`},
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, forGateways, c.node)
			h.pass(time.Second)
			if why := h.request()["x-hfi-error"]; why != c.why {
				t.Errorf("the daemon gets the reason %q", why)
			}
			if logs := strings.Join(h.GetErrorLogs(), ""); !strings.Contains(logs, c.why) || c.why == "" && logs != "" {
				t.Errorf("the log is %q", logs)
			}
			h.answer(200, policies, map[string]string{"etag": `"a"`})
			h.mustGet(c.status)
		})
	}
}

// TestWaypoint checks that a waypoint requests the policies of its namespace, and applies each to the
// requests of its service.
func TestWaypoint(t *testing.T) {
	h := start(t, frontendConfig, map[string]string{
		"id": "waypoint~10.0.0.1~way-1.demo~demo.svc.cluster.local", "metadata.NAMESPACE": "demo", "metadata.WORKLOAD_NAME": "way-istio-waypoint",
		"metadata.LABELS/gateway.networking.k8s.io/gateway-name": "way",
	})
	h.pass(time.Second)
	if path := h.request()[":path"]; !strings.Contains(path, "?waypoint=way&namespace=demo&") {
		t.Errorf("the path is %s", path)
	}
	if logs := h.GetWarnLogs(); len(logs) > 0 {
		t.Errorf("the log is %q", logs)
	}
	policy := func(name, selector string, status int) *schema.Policy {
		parsed, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":%s,"rules":[{"fault":{"abort":{"status":%d}}}]}}`, name, selector, status))
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	var compiled []*program.Compiled
	for _, each := range []*schema.Policy{
		policy("cart", `{"service":"cart","namespace":"demo"}`, 501), policy("gateway", `{"gateway":"*"}`, 502), policy("pay", `{"service":"pay"}`, 503),
	} {
		one, err := new(program.Compiler).Compile(each)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, one)
	}
	encoded, err := program.EncodeForWaypoints(compiled)
	if err != nil {
		t.Fatal(err)
	}
	h.answer(200, string(encoded), map[string]string{"etag": `"a"`})
	for _, test := range []struct {
		chain string
		want  int
	}{
		{"inbound-vip|80|http|cart.demo.svc.cluster.local", 501},
		{"inbound-vip|80|http|cart.other.svc.cluster.local", 200},
		{"inbound-vip|80|http|pay.demo.svc.cluster.local", 503},
		{"inbound-vip|80|http|web.demo.svc.cluster.local", 200},
		{"inbound-vip|80|http|cart.example.com", 200},
		{"direct-http", 200},
	} {
		if err := h.SetProperty([]string{"xds", "filter_chain_name"}, []byte(test.chain)); err != nil {
			t.Fatal(err)
		}
		if got := h.status(); got != test.want {
			t.Errorf("%s: status %d, want %d", test.chain, got, test.want)
		}
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

// TestDefaults checks the defaults in README.md.
func TestDefaults(t *testing.T) {
	want := config{source: source{Address: "h:1", StaleAfter: 10 * time.Minute}, MaxDelay: 5 * time.Minute, FaultHeader: true}
	if got, problems := parseConfig([]byte(`{"control_plane_address":"h:1"}`)); got != want || len(problems) != 0 {
		t.Errorf("%+v, %v", got, problems)
	}
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, `{"policies":[{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":3600000}}]}}]}`, map[string]string{"etag": `"a"`})
	id := h.delay("/")
	// There is no response. First the delay ends, later the policies, which came a millisecond before it.
	for _, step := range []struct {
		pass   time.Duration
		paused int
		active bool
	}{{5*time.Minute - time.Millisecond, 1, true}, {time.Millisecond, 0, true}, {5*time.Minute - 2*time.Millisecond, 0, true}, {time.Millisecond, 0, false}} {
		h.pass(step.pass)
		h.mustPause(step.paused)
		if active := h.vm.state()&stateActive != 0; active != step.active {
			t.Errorf("after another %s, policies in force: %v", step.pass, active)
		}
	}
	h.CompleteHttpContext(id)
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

func TestConfigurations(t *testing.T) {
	refused := func(why string) func(*config) {
		return func(c *config) { c.Cluster, c.Refused = "x", why }
	}
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
		{`{"control_plane_cluster":"x","direction":"outbound"}`, func(c *config) { c.Cluster, c.Outbound = "x", true }, 0},
		{`{"control_plane_cluster":"x","direction":"inbound"}`, func(c *config) { c.Cluster = "x" }, 0},
		{`{"control_plane_cluster":"x","direction":null}`, func(c *config) { c.Cluster = "x" }, 0},
		{`{"control_plane_cluster":"x","direction":"gateway"}`, func(c *config) { c.Cluster, c.OfGateway = "x", true }, 0},
		{`{"control_plane_cluster":"x","direction":true}`, func(c *config) {
			c.Cluster, c.Refused = "x", `setting direction: true is not "inbound", "outbound" or "gateway": no faults are injected`
		}, 1},
		{`{"control_plane_cluster":"x","max_delay":[]}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{"control_plane_cluster":"x","gateway":"g","namespace":"n"}`, func(c *config) { c.Cluster, c.Gateway, c.Namespace = "x", "g", "n" }, 0},
		{`{"control_plane_cluster":"x","gateway":"*"}`, refused(`setting gateway: "*" is not a name: no faults are injected`), 1},
		{`{"control_plane_cluster":"x","gateway":"a b"}`, refused(`setting gateway: "a b" is not a name: no faults are injected`), 1},
		{`{"control_plane_cluster":"x","gateway":5}`, refused(`setting gateway: 5 is not a name: no faults are injected`), 1},
		{`{"control_plane_cluster":"x","gateway":null}`, func(c *config) { c.Cluster = "x" }, 0},
		{`{"control_plane_cluster":"x","gateway":"` + strings.Repeat("g", 254) + `"}`,
			refused(`setting gateway: "` + strings.Repeat("g", 99) + `… is not a name: no faults are injected`), 1},
		{`{"control_plane_cluster":"x","namespace":"n n","gateway":"g"}`, func(c *config) {
			refused(`setting namespace: "n n" is not a name: no faults are injected`)(c)
			c.Gateway = "g"
		}, 1},
		{`{"control_plane_cluster":"x","namespace":"n"}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{"control_plane_cluster":"x","namespace":"n n"}`, func(c *config) {
			refused(`setting namespace: "n n" is not a name: no faults are injected`)(c)
		}, 1},
		{`{"control_plane_cluster":"x","unknown":1}`, func(c *config) { c.Cluster = "x" }, 1},
		{`{}`, func(c *config) {}, 1},
		{``, func(c *config) {}, 1},
		{`null`, func(c *config) {}, 1},
		{`[1]`, func(c *config) {}, 1},
	} {
		want := defaultConfig()
		c.change(&want)
		got, problems := parseConfig([]byte(c.text))
		if want.Address == "" && want.Cluster == "" && got.Refused != "" {
			want.refuse(got.Refused)
		}
		if got != want || len(problems) != c.problems {
			t.Errorf("%s: %+v, %v", c.text, got, problems)
		}
	}
}

func TestClusters(t *testing.T) {
	for _, c := range []struct {
		source source
		want   []string
	}{
		{source{Cluster: "x", Address: "h:1"}, []string{"x"}},
		{source{Address: "hfi-control-plane.boifi:8080"}, []string{"outbound|8080||hfi-control-plane.boifi.svc.cluster.local", "hfi-control-plane.boifi:8080", "hfi-control-plane.boifi"}},
		{source{Address: "c.n.svc:90"}, []string{"outbound|90||c.n.svc.cluster.local", "c.n.svc:90", "c.n.svc"}},
		{source{Address: "c.n.svc.cluster.local"}, []string{"outbound|8080||c.n.svc.cluster.local", "c.n.svc.cluster.local", "c.n.svc.cluster.local"}},
		{source{Address: "hfi.example.com:80"}, []string{"outbound|80||hfi.example.com", "hfi.example.com:80", "hfi.example.com"}},
		{source{Address: "hfi:80"}, []string{"outbound|80||hfi", "hfi:80", "hfi"}},
	} {
		if got := c.source.clusters(); !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q", c.source, got)
		}
	}
}
