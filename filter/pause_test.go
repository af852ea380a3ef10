package main

import (
	"testing"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// delaying is a policy for each path: delays of 300 ms, 100 ms, and one before an abort.
const delaying = `{"policies":[
	{"metadata":{"name":"long"},"spec":{"rules":[{"match":{"path":{"exact":"/long"}},"fault":{"delay_ms":300}}]}},
	{"metadata":{"name":"short"},"spec":{"rules":[{"match":{"path":{"exact":"/short"}},"fault":{"delay_ms":100}}]}},
	{"metadata":{"name":"both"},"spec":{"rules":[{"match":{"path":{"exact":"/both"}},"fault":{"delay_ms":200,"abort":{"status":503}}}]}}]}`

// delay begins a request that a policy delays.
func (h *host) delay(path string) (id uint32) {
	h.t.Helper()
	id = h.InitializeHttpContext()
	if action := h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", path}}, true); action != types.ActionPause {
		h.t.Fatalf("%s is not delayed", path)
	}
	h.armed = h.at
	return id
}

// mustPause checks how many streams are paused, by all there is to tell it.
func (h *host) mustPause(streams int) {
	h.t.Helper()
	if n, queued := len(h.vm.paused.streams), len(h.vm.paused.queue); n != streams || queued != streams {
		h.t.Errorf("%d streams are paused, and %d await their time, not %d", n, queued, streams)
	}
	if gauge, err := h.GetGaugeMetric(metricPausedStreams); err != nil || gauge != uint64(streams) {
		h.t.Errorf("the metric says %d (%v), not %d", gauge, err, streams)
	}
	if told := h.vm.state()&statePaused != 0; told != (streams > 0) {
		h.t.Errorf("that it has to be told of streams' ends: %v, with %d paused", told, streams)
	}
	if n := h.counter(metricPanics); n != 0 {
		h.t.Errorf("%d panics: %q", n, h.GetErrorLogs())
	}
}

func delayingHost(t *testing.T) *host {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.answer(200, delaying, map[string]string{"etag": `"a"`})
	return h
}

// A client that hangs up in mid-delay leaves nothing behind, and nothing is
// done to its request when the delay would have been over. Others go on.
func TestAHangUpLeavesNothing(t *testing.T) {
	h := delayingHost(t)
	first, gone, last := h.delay("/short"), h.delay("/long"), h.delay("/long")
	h.mustPause(3)
	h.CompleteHttpContext(gone)
	h.mustPause(2)
	h.pass(time.Second)
	h.mustPause(0)
	for _, id := range []uint32{first, last} {
		if h.GetCurrentHttpStreamAction(id) != types.ActionContinue {
			t.Errorf("stream %d is not resumed", id)
		}
		h.CompleteHttpContext(id)
	}
	h.mustPause(0)
	for range 100 {
		h.CompleteHttpContext(h.delay("/long"))
	}
	h.mustPause(0)
}

// Each delay ends at its own time, whatever the order in which they began,
// and what ended is forgotten.
func TestDelaysEndInTheirTime(t *testing.T) {
	h := delayingHost(t)
	long, both, short := h.delay("/long"), h.delay("/both"), h.delay("/short")
	passed := time.Duration(0)
	for _, step := range []struct {
		after  time.Duration
		paused int
	}{
		{99 * time.Millisecond, 3}, {100 * time.Millisecond, 2}, {199 * time.Millisecond, 2},
		{200 * time.Millisecond, 1}, {299 * time.Millisecond, 1}, {300 * time.Millisecond, 0},
	} {
		h.pass(step.after - passed)
		passed = step.after
		h.mustPause(step.paused)
	}
	for _, id := range []uint32{long, short} {
		if h.GetCurrentHttpStreamAction(id) != types.ActionContinue || h.GetSentLocalResponse(id) != nil {
			t.Errorf("stream %d is not resumed", id)
		}
	}
	if response := h.GetSentLocalResponse(both); response == nil || response.StatusCode != 503 {
		t.Errorf("after its delay the stream is not aborted: %+v", response)
	}
	// Their ends, told later, are nothing new.
	for _, id := range []uint32{long, both, short} {
		h.CompleteHttpContext(id)
	}
	h.mustPause(0)
}

// A mistake of the filter's at the end of a delay leaves no request hanging:
// it goes on, or has its abort, all the same.
func TestAPanicAtTheEndOfADelayHangsNothing(t *testing.T) {
	t.Run("in counting the paused", func(t *testing.T) {
		h := delayingHost(t)
		short, both := h.delay("/short"), h.delay("/both")
		*h.vm.metrics.pausedStreams = noMetric
		h.pass(time.Second)
		if h.GetCurrentHttpStreamAction(short) != types.ActionContinue {
			t.Error("the delayed request hangs")
		}
		if response := h.GetSentLocalResponse(both); response == nil || response.StatusCode != 503 {
			t.Errorf("the request to be aborted has %+v", response)
		}
		if n := h.counter(metricPanics); n != 2 {
			t.Errorf("%d panics are counted", n)
		}
	})
	t.Run("after its abort", func(t *testing.T) {
		h := delayingHost(t)
		both := h.delay("/both")
		h.vm.metrics.counters[metricAborts] = noMetric
		h.pass(time.Second)
		if response := h.GetSentLocalResponse(both); response == nil || response.StatusCode != 503 {
			t.Errorf("the request has %+v", response)
		}
		if h.GetCurrentHttpStreamAction(both) != types.ActionPause {
			t.Error("an aborted request goes on")
		}
		if n := h.counter(metricPanics); n != 1 {
			t.Errorf("%d panics are counted", n)
		}
	})
}

// A request that has its answer must not go on to the upstream, whatever breaks then.
func TestAPanicAfterAnAbortDoesNotContinueTheRequest(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	h.vm.metrics.counters[metricAborts] = noMetric
	id := h.InitializeHttpContext()
	action := h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", "/"}}, true)
	if response := h.GetSentLocalResponse(id); action != types.ActionPause || response == nil || response.StatusCode != 503 {
		t.Errorf("action %v with answer %+v", action, response)
	}
	if n := h.counter(metricPanics); n != 1 {
		t.Errorf("%d panics are counted", n)
	}
}
