package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

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
