package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// TestRequest checks the request for the workload in the node metadata.
func TestRequest(t *testing.T) {
	h := start(t, `{"control_plane_address":"hfi-control-plane.boifi:8080"}`, frontend)
	h.pass(time.Second)
	request := h.request()
	for name, want := range map[string]string{
		":method": "GET", ":path": "/v1/policies?service=frontend&namespace=demo&wait=1s", ":authority": "hfi-control-plane.boifi:8080",
		api.HeaderNode: "node-1", api.HeaderPod: "frontend-1", api.HeaderVM: h.vm.id,
	} {
		if request[name] != want {
			t.Errorf("%s: %q, want %q", name, request[name], want)
		}
	}
	if tag, given := request["if-none-match"]; given {
		t.Errorf("the request has the tag %s", tag)
	}
	if cluster := h.GetCalloutAttributesFromContext(1)[0].Upstream; cluster != "outbound|8080||hfi-control-plane.boifi.svc.cluster.local" {
		t.Errorf("the cluster is %s", cluster)
	}
	h.update("a", 503)
	request = h.request()
	if request["if-none-match"] != `"a"` || request[api.HeaderRevision] != "r-a" {
		t.Errorf("after an update the request is %v", request)
	}
	h.mustGet(503)
	h.pass(unsettledTime)
	h.answer(304, "", nil)
	if path := h.request()[":path"]; path != "/v1/policies?service=frontend&namespace=demo&wait=20s" {
		t.Errorf("later the path is %s", path)
	}
}

func TestHostileMetadata(t *testing.T) {
	h := start(t, frontendConfig, map[string]string{"id": "a\r\nx: y", "metadata.WORKLOAD_NAME": "a&b=c d", "metadata.NAMESPACE": "ü"})
	h.pass(time.Second)
	request := h.request()
	if request[api.HeaderNode] != "a__x:_y" || !strings.HasPrefix(request[":path"], "/v1/policies?service=a%26b%3Dc%20d&namespace=%C3%BC&") {
		t.Errorf("the request is %q", request)
	}
}

// TestABadAnswerChangesNothing checks that the policies stay in force after an invalid response.
func TestABadAnswerChangesNothing(t *testing.T) {
	tag := map[string]string{"etag": `"b"`}
	empty := compile(t, `{"policies":[]}`)
	bad := map[string]func(h *host){
		"500":               func(h *host) { h.answer(500, "oops", nil) },
		"no program":        func(h *host) { h.answer(200, "<html>", tag) },
		"truncated program": func(h *host) { h.answer(200, empty[:len(empty)-1], tag) },
		"shorter than its content-length": func(h *host) {
			h.answer(200, empty, map[string]string{"etag": `"b"`, "content-length": "99"})
		},
		"JSON": func(h *host) {
			h.answer(200, `{}`, map[string]string{"etag": `"b"`, "content-type": "application/json"})
		},
		"no type":    func(h *host) { h.answer(200, empty, map[string]string{"etag": `"b"`, "content-type": "-"}) },
		"no ETag":    func(h *host) { h.answer(200, empty, nil) },
		"over 4 MiB": func(h *host) { h.answer(200, empty+strings.Repeat(" ", 4<<20), tag) },
		"content-length over 4 MiB": func(h *host) {
			h.answer(200, empty, map[string]string{"etag": `"b"`, "content-length": "50000000"})
		},
		"no headers": func(h *host) { h.answered++; h.poll().answered(h.poll().generation, 0, 0) },
	}
	for name, answer := range bad {
		t.Run(name, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.update("a", 503)
			answer(h)
			h.mustGet(503)
			if n := h.counter(metricPollErrors); n != 1 {
				t.Errorf("the metric counts %d errors", n)
			}
			h.pass(maxBackoff)
			if tag := h.request()["if-none-match"]; tag != `"a"` {
				t.Errorf("the next request has the tag %s", tag)
			}
			h.update("c", 418)
			h.mustGet(418)
		})
	}
}

// TestNewerPolicyIsSkipped checks that a policy which needs a newer filter does not affect the
// others.
func TestNewerPolicyIsSkipped(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	body := compile(t, `{"policies":[
		{"metadata":{"name":"a"},"spec":{"rules":[{"fault":{"abort":{"status":418}}}]}},
		{"metadata":{"name":"newer"},"spec":{"rules":[{"fault":{"delay_ms":60000}}]}}]}`)
	const newer = "\x05newer\x01*\x01*"
	at := strings.Index(body, newer) + len(newer)
	h.answer(200, body[:at]+"\x01"+body[at+1:], map[string]string{"etag": `"a"`})
	h.mustGet(418)
	if n := h.counter(metricBadPolicies); n != 1 || !strings.Contains(strings.Join(h.GetWarnLogs(), ""), "need a newer filter are skipped: newer") {
		t.Errorf("the metric counts %d policies that are skipped: %q", n, h.GetWarnLogs())
	}
}

// TestPoliciesForOthersAreNotApplied checks that the filter ignores policies that do not select
// its workload, even if the daemon sends them.
func TestPoliciesForOthersAreNotApplied(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	abort := func(name, selector string, status int) string {
		return fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"selector":%s,"rules":[{"fault":{"abort":{"status":%d}}}]}}`, name, selector, status)
	}
	for _, c := range []struct {
		selector string
		status   int
	}{
		{`{"service":"productcatalog"}`, 200},
		{`{"service":"frontend","namespace":"prod"}`, 200},
		{`{"service":"Frontend"}`, 200},
		{`{"service":"frontend","namespace":"demo"}`, 418},
		{`{"service":"*","namespace":"demo"}`, 418},
		{`{}`, 418},
	} {
		h.answer(200, `{"policies":[`+abort("p", c.selector, 418)+`]}`, map[string]string{"etag": `"` + c.selector + `"`})
		if got := h.status(); got != c.status {
			t.Errorf("a policy for %s: status %d, want %d", c.selector, got, c.status)
		}
		if loaded, err := h.GetGaugeMetric(metricPolicies); err != nil || loaded == 1 != (c.status == 418) {
			t.Errorf("a policy for %s: the metric has %d policies in force (%v)", c.selector, loaded, err)
		}
	}
	if logs := strings.Join(h.GetWarnLogs(), ""); !strings.Contains(logs, "do not select this workload: p") {
		t.Errorf("the log is %q", logs)
	}
	h.answer(200, `{"policies":[`+abort("a", `{"service":"productcatalog"}`, 500)+","+abort("b", `{}`, 418)+`]}`, map[string]string{"etag": `"both"`})
	h.mustGet(418)
}

// TestStalePoliciesEnd checks that policies stay in force for stale_after without a response, and
// that the filter applies policies again when the daemon is back.
func TestStalePoliciesEnd(t *testing.T) {
	h := start(t, `{"control_plane_cluster": "hfi", "stale_after": "10m"}`, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	for begin := h.at; h.at.Sub(begin) < 9*time.Minute; {
		h.pass(30 * time.Second)
		for h.requests() > h.answered {
			h.answer(503, "", nil)
		}
	}
	h.mustGet(503)
	h.pass(61 * time.Second)
	h.mustGet(200)
	if value, err := h.GetGaugeMetric(metricStale); value != 1 {
		t.Errorf("the metric is %d, %v", value, err)
	}
	if h.requests() == h.answered {
		h.pass(maxBackoff)
	}
	h.answer(500, "", nil)
	h.pass(maxBackoff)
	if tag, given := h.request()["if-none-match"]; given {
		t.Errorf("the request has the tag %s", tag)
	}
	h.update("a", 503)
	h.mustGet(503)
	if value, _ := h.GetGaugeMetric(metricStale); value != 0 {
		t.Error("the metric is still 1")
	}
}

// TestConfirmedPoliciesStay checks that a 304 confirms the policies in force.
func TestConfirmedPoliciesStay(t *testing.T) {
	h := start(t, `{"control_plane_cluster": "hfi", "stale_after": "1m"}`, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	for range 60 {
		h.pass(maxWait)
		h.answer(304, "", nil)
	}
	h.mustGet(503)
	if n := h.requests() - h.answered; n != 1 {
		t.Errorf("%d requests are in flight", n)
	}
}

// TestTriesBackOffWithJitter checks the exponential backoff after failures and its jitter.
func TestTriesBackOffWithJitter(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	var pauses []time.Duration
	for range 40 {
		h.answer(503, "", nil)
		before := h.at
		for h.requests() == h.answered {
			h.pass(time.Millisecond)
		}
		pauses = append(pauses, h.at.Sub(before))
	}
	for i, pause := range pauses {
		most := min(firstBackoff<<min(i, 10), maxBackoff)
		if pause < most/2 || pause > most+2*time.Millisecond {
			t.Errorf("backoff %d is %s, want %s to %s", i, pause, most/2, most)
		}
	}
	different := map[time.Duration]bool{}
	for _, pause := range pauses[10:] {
		different[pause] = true
	}
	if len(different) < 20 {
		t.Errorf("only %d of 30 backoffs differ: %v", len(different), pauses[10:])
	}
}

// TestImmediateResponses checks that a server that responds at once does not cause a busy loop.
func TestImmediateResponses(t *testing.T) {
	for name, answer := range map[string]func(h *host, i int){
		"304":               func(h *host, _ int) { h.answer(304, "", nil) },
		"the same 200":      func(h *host, _ int) { h.update("a", 503) },
		"always a new ETag": func(h *host, i int) { h.update(strings.Repeat("x", i+1), 503) },
		"an empty response": func(h *host, _ int) { h.answer(200, "", nil) },
	} {
		t.Run(name, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.update("a", 503)
			begin, first := h.at, h.answered
			for i := 0; h.at.Sub(begin) < 10*time.Second; i++ {
				for h.requests() > h.answered {
					answer(h, i)
				}
				h.pass(time.Millisecond)
			}
			if n := h.answered - first; n > burst+int(10*time.Second/minPace)+1 {
				t.Errorf("%d requests in 10 s", n)
			}
		})
	}
}

// TestAPanicOnAnAnswerBacksOff checks that a panic on a response counts as a failure: the next
// request is delayed by the backoff, and has the tag of the policies in force.
func TestAPanicOnAnAnswerBacksOff(t *testing.T) {
	for _, metric := range []string{metricUpdates, metricHeartbeats} {
		t.Run(metric, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.update("a", 503)
			first, panics := h.answered, h.counter(metricPanics)
			good := h.vm.metrics.counters[metric]
			h.vm.metrics.counters[metric] = noMetric
			// Five in the first few seconds, and then at most one in 2.5 s.
			most := 5 + int(time.Minute/(maxBackoff/2))
			for begin := h.at; h.at.Sub(begin) < time.Minute; h.pass(time.Millisecond) {
				for h.requests() > h.answered {
					if h.answered-first > most {
						t.Fatalf("more than %d requests in %s", most, h.at.Sub(begin))
					}
					h.update(fmt.Sprint("b", h.answered), 418)
					if tag := h.poll().tag; tag != fmt.Sprintf(`"b%d"`, h.answered-1) {
						t.Fatalf("the tag in force is %s", tag)
					}
				}
			}
			h.mustGet(418)
			n := h.answered - first
			if n < 5 || n > most {
				t.Errorf("%d requests in a minute, want at most %d", n, most)
			}
			if counted := h.counter(metricPanics) - panics; counted != uint64(n) {
				t.Errorf("the metric counts %d panics, want %d", counted, n)
			}
			h.vm.metrics.counters[metric] = good
			h.pass(maxBackoff)
			h.update("c", 503)
			h.mustGet(503)
			h.request() // the next request is sent at once
		})
	}
}

// TestAPanicInAskingBacksOff checks that a panic while sending a request counts as a failure.
func TestAPanicInAskingBacksOff(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	who := h.vm.identity
	h.vm.identity = nil
	h.pass(time.Minute)
	if n, most := h.counter(metricPanics), uint64(5+time.Minute/(maxBackoff/2)); n < 5 || n > most {
		t.Errorf("%d panics in a minute, want at most %d", n, most)
	}
	h.vm.identity = who
	h.pass(maxBackoff)
	h.update("a", 503)
	h.mustGet(503)
}

// TestUnknownRevision checks that the filter drops its revision if no replica has had it for
// maxBehind, because etcd was replaced. Until then it keeps the newer policies.
func TestUnknownRevision(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	begin := h.at
	for {
		if h.request()[api.HeaderRevision] == "" {
			break
		}
		if h.at.Sub(begin) > 2*time.Minute {
			t.Fatal("the filter keeps the revision")
		}
		h.answer(503, `{"error":{"code":"behind","message":"this replica is at 1"}}`, map[string]string{"x-hfi-revision": "r-old"})
		for h.requests() == h.answered {
			h.pass(time.Millisecond)
		}
	}
	if past := h.at.Sub(begin); past < maxBehind {
		t.Errorf("the filter drops the revision after only %s", past)
	}
	h.mustGet(503)
	h.update("b", 418)
	h.mustGet(418)
}

func TestUnexpected304(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(304, "", nil)
	if n := h.counter(metricPollErrors); n != 1 {
		t.Errorf("the metric counts %d errors", n)
	}
}

// TestShortStaleAfter checks that a short stale_after shortens the wait, so that policies are
// confirmed in time.
func TestShortStaleAfter(t *testing.T) {
	h := start(t, `{"control_plane_cluster":"hfi","stale_after":"3s"}`, frontend)
	h.pass(time.Second)
	if path := h.request()[":path"]; !strings.HasSuffix(path, "&wait=1.5s") {
		t.Errorf("the path is %s", path)
	}
	h.update("a", 503)
	for range 10 {
		h.pass(1500 * time.Millisecond)
		h.answer(304, "", nil)
		h.mustGet(503)
	}
}
