package envoy

import (
	"strconv"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// oracleVaries are headers whose values are different in every request; that
// they are there is compared.
var oracleVaries = map[string]string{
	"date":                          "the clock",
	"x-request-id":                  "drawn by Envoy for each request",
	"x-envoy-upstream-service-time": "measured, in milliseconds",
	"x-oracle-side":                 "set by this test to tell the sides apart",
}

// oracleDifference is a wanted difference: wherever its condition holds, the
// native filter shows the one and our filter the other. In a fact's name, * is
// each of the case's requests; in the values, NAME is the policy's name and
// STATUS the HTTP status for its gRPC status. filter/README.md has this list in prose.
type oracleDifference struct {
	fact         string
	when         func(*oracleCase) bool
	native, ours string
	reason       string
}

const (
	oracleOwnBody   = "an abort of ours has the body that its policy says, or none; the native filter's has a text of its own"
	oracleOwnFlags  = "a Wasm filter can set neither flags nor details for the access log; ours marks the request in the filter state wasm.hfi_fault"
	oracleNoContent = "204, 304 and answers to HEAD have no body; the native filter sends its text, or its length, all the same"
	oracleGRPCPlain = "a client that does not speak gRPC would take the native filter's 200 for a success; ours answers with the HTTP status for the gRPC status"
)

var oracleDifferences = []oracleDifference{
	{"log * flag FI", (*oracleCase).aborted, "set", "", oracleOwnFlags},
	{"log * flag DI", (*oracleCase).delayed, "set", "", oracleOwnFlags},
	{"log * details", (*oracleCase).aborted, "fault_filter_abort", "", oracleOwnFlags},
	{"log * mark", func(c *oracleCase) bool { return c.aborted() && !c.delayed() }, "", "abort=NAME", oracleOwnFlags},
	{"log * mark", func(c *oracleCase) bool { return c.delayed() && !c.aborted() }, "", "delay=NAME", oracleOwnFlags},
	{"log * mark", func(c *oracleCase) bool { return c.delayed() && c.aborted() }, "", "delay=NAME;abort=NAME", oracleOwnFlags},
	{"header x-hfi-fault", (*oracleCase).aborted, "", "NAME", "an abort of ours names its policy, unless the filter's configuration says otherwise"},
	{"body", func(c *oracleCase) bool { return c.plainBody() && c.mayHaveBody() }, "fault filter abort", "", oracleOwnBody},
	{"header content-type", (*oracleCase).plainBody, "text/plain", "", oracleOwnBody},
	{"header content-length", func(c *oracleCase) bool { return c.plainBody() && c.mayHaveBody() && !c.request.http2 }, "18", "0", oracleOwnBody},
	{"header content-length", func(c *oracleCase) bool { return c.plainBody() && c.mayHaveBody() && c.request.http2 }, "18", "", oracleOwnBody},
	{"log * sent", func(c *oracleCase) bool { return c.plainBody() && c.request.method != "HEAD" }, "18", "0", oracleOwnBody},
	{"header grpc-message", func(c *oracleCase) bool { return c.aborted() && c.byGRPC() && c.fault.body == "" }, "fault filter abort", "", oracleOwnBody},
	{"header content-length", func(c *oracleCase) bool { return c.plainBody() && !c.mayHaveBody() }, "18", "", oracleNoContent},
	{"behind the answer", func(c *oracleCase) bool {
		return c.aborted() && c.noContent() && c.request.method != "HEAD" && !c.request.http2
	}, "fault filter abort", "", oracleNoContent},
	{"body", func(c *oracleCase) bool {
		return c.aborted() && c.noContent() && c.request.http2 && c.request.method != "HEAD"
	}, "fault filter abort", "", oracleNoContent},
	{"status", (*oracleCase).grpcToPlain, "200", "STATUS", oracleGRPCPlain},
	{"log * status", (*oracleCase).grpcToPlain, "200", "STATUS", oracleGRPCPlain},
}

// aborted and delayed say whether both filters do that to the case's request.
func (c *oracleCase) aborted() bool { return c.only == "" && c.acts("ours") && c.fault.aborts() }
func (c *oracleCase) delayed() bool { return c.only == "" && c.acts("ours") && c.fault.delay > 0 }

// byGRPC says whether the client speaks gRPC.
func (c *oracleCase) byGRPC() bool { return c.request.header.Get("Content-Type") == "application/grpc" }

// noContent says whether HTTP gives answers with the abort's status no body (RFC 9110, 6.4.1).
func (c *oracleCase) noContent() bool { return c.fault.status == 204 || c.fault.status == 304 }

// plainBody: an abort for a client that does not speak gRPC, without a body of ours.
func (c *oracleCase) plainBody() bool {
	return c.aborted() && !c.byGRPC() && (c.fault.body == "" || c.noContent())
}

// grpcToPlain: an abort by gRPC status for a client that does not speak gRPC.
func (c *oracleCase) grpcToPlain() bool { return c.aborted() && !c.byGRPC() && c.fault.grpc != 0 }

// mayHaveBody says whether HTTP allows a body in the abort's answer.
func (c *oracleCase) mayHaveBody() bool { return c.request.method != "HEAD" && !c.noContent() }

// oracleHTTPOfGRPC are statuses for the gRPC statuses of the cases, after google/rpc/code.proto.
var oracleHTTPOfGRPC = map[int]string{1: "499", 2: "500", 5: "404", 8: "429", 12: "501", 14: "503", 16: "401"}

// oracleListed is a listed difference as it applies to one case.
type oracleListed struct {
	native, ours, reason string
	place                int
}

// wanted are the differences that a case must show, by fact.
func (w *oracleWorld) wanted(c *oracleCase, requests int) map[string]oracleListed {
	wanted := make(map[string]oracleListed)
	values := strings.NewReplacer("NAME", c.name, "STATUS", oracleHTTPOfGRPC[c.fault.grpc])
	for place, d := range oracleDifferences {
		if d.when(c) {
			for i := range requests {
				fact := strings.Replace(d.fact, "*", strconv.Itoa(i), 1)
				wanted[fact] = oracleListed{values.Replace(d.native), values.Replace(d.ours), d.reason, place}
			}
		}
	}
	return wanted
}

// checkList fails for listed differences that no case has shown.
func (w *oracleWorld) checkList(t *testing.T) {
	for place, d := range oracleDifferences {
		if !w.occurred[place] {
			t.Errorf("no case shows the listed difference in %s: %s", d.fact, d.reason)
		}
	}
	for _, c := range oracleCases {
		if c.only != "" && c.why == "" {
			t.Errorf("%s differs without a reason", c.name)
		}
	}
}

// oracleCounters are both filters' own counts of what they did.
type oracleCounters struct{ aborts, delays [2]float64 }

func (w *oracleWorld) counters(t *testing.T) (c oracleCounters) {
	t.Helper()
	stats, err := w.envoy.Stats()
	if err != nil {
		t.Fatal(err)
	}
	prefix := []string{"envoy_http_conn_manager_prefix", "native"}
	c.aborts = [2]float64{stats.Value("envoy_http_fault_aborts_injected", prefix...), stats.Value("hfi_faults_aborts_total")}
	c.delays = [2]float64{stats.Value("envoy_http_fault_delays_injected", prefix...), stats.Value("hfi_faults_delays_total")}
	return c
}

func (now oracleCounters) since(before oracleCounters) oracleCounters {
	for i := range oracleSides {
		now.aborts[i] -= before.aborts[i]
		now.delays[i] -= before.delays[i]
	}
	return now
}

// checkCounters compares both filters' counts of the cases' faults.
func (w *oracleWorld) checkCounters(t *testing.T, before, after oracleCounters) {
	got := after.since(before)
	for _, c := range oracleCases {
		// Where only one filter acts the other's count falls behind.
		for i, side := range oracleSides {
			if c.only != "" && c.only != side && c.fault.aborts() {
				got.aborts[i]++
			}
		}
	}
	if got.aborts[0] != got.aborts[1] || got.delays[0] != got.delays[1] || got.aborts[0] == 0 || got.delays[0] == 0 {
		t.Errorf("the native filter and ours counted %v aborts and %v delays", got.aborts, got.delays)
	}
}

// checkNothingLeft waits until no stream is left in Envoy.
func (w *oracleWorld) checkNothingLeft(t *testing.T) {
	for _, gauge := range []string{"envoy_http_downstream_rq_active", "envoy_cluster_upstream_rq_active", "envoy_http_fault_active_faults", "hfi_paused_streams"} {
		var labels []string
		if gauge == "envoy_cluster_upstream_rq_active" {
			labels = []string{"envoy_cluster_name", "upstream"} // not the daemon's, where our filter waits
		}
		if strings.HasPrefix(gauge, "envoy_http_downstream") {
			labels = []string{"envoy_http_conn_manager_prefix", "ours"}
		}
		stats, err := w.envoy.WaitStats(gauge+" is 0", envoytest.Patience, func(stats envoytest.Stats) bool {
			return stats.Has(gauge) && stats.Value(gauge, labels...) == 0
		})
		if err != nil {
			t.Errorf("%v: it is %v", err, stats.Value(gauge, labels...))
		}
	}
}
