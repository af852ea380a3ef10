package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// The filter asks as the workload that the node's metadata name.
func TestItAsksForItsWorkload(t *testing.T) {
	h := start(t, `{"control_plane_address":"hfi-control-plane.boifi:8080"}`, frontend)
	h.pass(time.Second)
	request := h.request()
	for name, want := range map[string]string{
		":method": "GET", ":path": "/v1/policies?service=frontend&namespace=demo&wait=20s", ":authority": "hfi-control-plane.boifi:8080",
		api.HeaderNode: "node-1", api.HeaderPod: "frontend-1", api.HeaderVM: h.vm.poll.id,
	} {
		if request[name] != want {
			t.Errorf("%s: %q, want %q", name, request[name], want)
		}
	}
	if tag, given := request["if-none-match"]; given {
		t.Errorf("it claims to have %s", tag)
	}
	if cluster := h.GetCalloutAttributesFromContext(1)[0].Upstream; cluster != "outbound|8080||hfi-control-plane.boifi.svc.cluster.local" {
		t.Errorf("it asks cluster %s", cluster)
	}
	h.update("a", 503)
	request = h.request()
	if request["if-none-match"] != `"a"` || request[api.HeaderRevision] != "r-a" {
		t.Errorf("after an update it asks with %v", request)
	}
	h.mustGet(503)
}

func TestAHostileNodeCannotSpoilTheRequest(t *testing.T) {
	h := start(t, frontendConfig, map[string]string{"id": "a\r\nx: y", "metadata.WORKLOAD_NAME": "a&b=c d", "metadata.NAMESPACE": "ü"})
	h.pass(time.Second)
	request := h.request()
	if request[api.HeaderNode] != "a__x:_y" || !strings.HasPrefix(request[":path"], "/v1/policies?service=a%26b%3Dc%20d&namespace=%C3%BC&") {
		t.Errorf("it asks with %q", request)
	}
}

// One bad policy does not spoil the rest: whatever comes back, the
// last good policies stay in force.
func TestABadAnswerChangesNothing(t *testing.T) {
	bad := map[string]func(h *host){
		"500":        func(h *host) { h.answer(500, "oops", nil) },
		"no JSON":    func(h *host) { h.answer(200, "<html>", map[string]string{"etag": `"b"`}) },
		"half of it": func(h *host) { h.answer(200, `{"policies":[{"metad`, map[string]string{"etag": `"b"`}) },
		"cut off": func(h *host) {
			h.answer(200, `{"policies":[]}`, map[string]string{"etag": `"b"`, "content-length": "99"})
		},
		"no list": func(h *host) { h.answer(200, `{}`, map[string]string{"etag": `"b"`}) },
		"null":    func(h *host) { h.answer(200, `null`, map[string]string{"etag": `"b"`}) },
		"no ETag": func(h *host) { h.answer(200, `{"policies":[]}`, nil) },
		"over 4 MiB": func(h *host) {
			h.answer(200, `{"policies":[]}`+strings.Repeat(" ", 4<<20), map[string]string{"etag": `"b"`})
		},
		"says over 4 MiB": func(h *host) {
			h.answer(200, `{"policies":[]}`, map[string]string{"etag": `"b"`, "content-length": "50000000"})
		},
		"no headers": func(h *host) { h.answered++; h.vm.poll.answered(h.vm.poll.generation, 0, 0) },
	}
	for name, answer := range bad {
		t.Run(name, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.update("a", 503)
			answer(h)
			h.mustGet(503)
			if n := h.counter(metricPollErrors); n != 1 {
				t.Errorf("%d errors are counted", n)
			}
			h.pass(maxBackoff)
			if tag := h.request()["if-none-match"]; tag != `"a"` {
				t.Errorf("it then asks with %s", tag)
			}
			h.update("c", 418)
			h.mustGet(418)
		})
	}
}

func TestABadPolicyIsLeftOut(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, `{"policies":[
		{"metadata":{"name":"a"},"spec":{"rules":[{"match":{"path":{"regex":"("}},"fault":{"abort":{"status":500}}}]}},
		{"metadata":{"name":7}}, 3,
		{"metadata":{"name":"b"},"spec":{"rules":[{"fault":{"abort":{"status":418}},"from_the_future":1}],"nor_this":{}}}]}`, map[string]string{"etag": `"a"`})
	h.mustGet(418)
	if n := h.counter(metricBadPolicies); n != 3 {
		t.Errorf("%d bad policies are counted: %q", n, h.GetWarnLogs())
	}
}

// The filter decides by the daemon's own code whom a policy is for. What is
// for others is not applied, even should a daemon send it.
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
			t.Errorf("a policy for %s: %d, and it should be %d", c.selector, got, c.status)
		}
		if loaded, err := h.GetGaugeMetric(metricPolicies); err != nil || loaded == 1 != (c.status == 418) {
			t.Errorf("a policy for %s: %d count as in force (%v)", c.selector, loaded, err)
		}
	}
	if logs := strings.Join(h.GetWarnLogs(), ""); !strings.Contains(logs, "not for this workload: p") {
		t.Errorf("it says %q", logs)
	}
	h.answer(200, `{"policies":[`+abort("a", `{"service":"productcatalog"}`, 500)+","+abort("b", `{}`, 418)+`]}`, map[string]string{"etag": `"both"`})
	h.mustGet(418)
}

// What was last received stays in force for stale_after, and then no longer;
// once the daemon is back, the filter takes up its policies again.
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
		t.Errorf("the metric says %d, %v", value, err)
	}
	if h.requests() == h.answered {
		h.pass(maxBackoff)
	}
	h.answer(500, "", nil)
	h.pass(maxBackoff)
	if tag, given := h.request()["if-none-match"]; given {
		t.Errorf("it claims to have %s", tag)
	}
	h.update("a", 503)
	h.mustGet(503)
	if value, _ := h.GetGaugeMetric(metricStale); value != 0 {
		t.Error("it still counts as stale")
	}
}

// A filter whose policies are confirmed, again and again, by 304 is not stale.
func TestConfirmedPoliciesStay(t *testing.T) {
	h := start(t, `{"control_plane_cluster": "hfi", "stale_after": "1m"}`, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	for range 60 {
		h.pass(askWait)
		h.answer(304, "", nil)
	}
	h.mustGet(503)
	if n := h.requests() - h.answered; n != 1 {
		t.Errorf("%d requests are under way", n)
	}
}

// After failures the tries become rarer up to a bound that the daemon's
// patience allows for, and never come at one moment from many filters.
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
			t.Errorf("pause %d is %s, and should be %s to %s", i, pause, most/2, most)
		}
	}
	different := map[time.Duration]bool{}
	for _, pause := range pauses[10:] {
		different[pause] = true
	}
	if len(different) < 20 {
		t.Errorf("of 30 pauses only %d differ: %v", len(different), pauses[10:])
	}
}

// A server that answers at once, whatever it answers, does not make the filter spin.
func TestNoAnswerMakesItSpin(t *testing.T) {
	for name, answer := range map[string]func(h *host, i int){
		"304 at once":       func(h *host, _ int) { h.answer(304, "", nil) },
		"the same 200":      func(h *host, _ int) { h.update("a", 503) },
		"always another":    func(h *host, i int) { h.update(strings.Repeat("x", i+1), 503) },
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

// A mistake of the filter's on an answer is one more failure: the next try comes
// later, though the daemon answers at once, and with the tag of what is in force.
func TestAPanicOnAnAnswerBacksOff(t *testing.T) {
	for _, metric := range []string{metricUpdates, metricHeartbeats} {
		t.Run(metric, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.update("a", 503)
			first, panics := h.answered, h.counter(metricPanics)
			good := h.vm.metrics.counters[metric]
			h.vm.metrics.counters[metric] = noMetric
			for begin := h.at; h.at.Sub(begin) < time.Minute; h.pass(time.Millisecond) {
				for h.requests() > h.answered {
					h.update(fmt.Sprint("b", h.answered), 418)
					if tag := h.vm.poll.tag; tag != fmt.Sprintf(`"b%d"`, h.answered-1) {
						t.Fatalf("what is in force counts as %s", tag)
					}
				}
			}
			h.mustGet(418)
			n := h.answered - first
			// Five in the first few seconds, and then one in 2.5 s at the most.
			if most := 5 + int(time.Minute/(maxBackoff/2)); n < 5 || n > most {
				t.Errorf("%d requests in a minute, and %d would be the most", n, most)
			}
			if counted := h.counter(metricPanics) - panics; counted != uint64(n) {
				t.Errorf("%d panics are counted, and there were %d", counted, n)
			}
			h.vm.metrics.counters[metric] = good
			h.pass(maxBackoff)
			h.update("c", 503)
			h.mustGet(503)
			h.request() // it asks again at once
		})
	}
}

// So does one while asking, when no answer will come.
func TestAPanicInAskingBacksOff(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	who := h.vm.identity
	h.vm.identity = nil
	h.pass(time.Minute)
	if n, most := h.counter(metricPanics), uint64(5+time.Minute/(maxBackoff/2)); n < 5 || n > most {
		t.Errorf("%d panics in a minute, and %d would be the most", n, most)
	}
	h.vm.identity = who
	h.pass(maxBackoff)
	h.update("a", 503)
	h.mustGet(503)
}

// Replicas that for long know nothing of what the filter has seen are right:
// that etcd is gone. Until then the filter keeps what is newer.
func TestARevisionThatNobodyKnowsIsForgotten(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	begin := h.at
	for {
		if h.request()[api.HeaderRevision] == "" {
			break
		}
		if h.at.Sub(begin) > 2*time.Minute {
			t.Fatal("it never forgets it")
		}
		h.answer(503, `{"error":{"code":"behind","message":"this replica is at 1"}}`, nil)
		for h.requests() == h.answered {
			h.pass(time.Millisecond)
		}
	}
	if past := h.at.Sub(begin); past < behindPatience {
		t.Errorf("it forgets it after %s already", past)
	}
	h.mustGet(503)
	h.update("b", 418)
	h.mustGet(418)
}

func TestA304ToNobodyIsAnError(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(304, "", nil)
	if n := h.counter(metricPollErrors); n != 1 {
		t.Errorf("%d errors are counted", n)
	}
}

// While the daemon is there, even a very short stale_after is never reached:
// the filter has its policies confirmed in time.
func TestAShortStaleAfterShortensTheWait(t *testing.T) {
	h := start(t, `{"control_plane_cluster":"hfi","stale_after":"3s"}`, frontend)
	h.pass(time.Second)
	if path := h.request()[":path"]; !strings.HasSuffix(path, "&wait=1.5s") {
		t.Errorf("it asks for %s", path)
	}
	h.update("a", 503)
	for range 10 {
		h.pass(1500 * time.Millisecond)
		h.answer(304, "", nil)
		h.mustGet(503)
	}
}

// A filter without a daemon to ask says so, and does not try.
func TestNobodyIsNotAsked(t *testing.T) {
	h := start(t, `{}`, frontend)
	h.pass(time.Minute)
	if h.requests() != 0 || h.GetTickPeriod() != 0 {
		t.Errorf("%d requests, and a tick every %d ms", h.requests(), h.GetTickPeriod())
	}
	if logs := strings.Join(h.GetErrorLogs(), ""); !strings.Contains(logs, "control_plane_address") {
		t.Errorf("it says %q", logs)
	}
}
