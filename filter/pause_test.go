package main

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// delaying has a policy for each path: delays of 300 ms and 100 ms, and one before an abort.
const delaying = `{"policies":[
	{"metadata":{"name":"long"},"spec":{"rules":[{"match":{"path":{"exact":"/long"}},"fault":{"delay_ms":300}}]}},
	{"metadata":{"name":"short"},"spec":{"rules":[{"match":{"path":{"exact":"/short"}},"fault":{"delay_ms":100}}]}},
	{"metadata":{"name":"both"},"spec":{"rules":[{"match":{"path":{"exact":"/both"}},"fault":{"delay_ms":200,"abort":{"status":503}}}]}}]}`

// delay starts a request that a policy delays.
func (h *host) delay(path string) (id uint32) {
	h.t.Helper()
	id = h.InitializeHttpContext()
	if action := h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", path}}, true); action != types.ActionPause {
		h.t.Fatalf("%s is not delayed", path)
	}
	h.armed = h.at
	return id
}

// mustPause checks the number of paused streams in the VM, its metric and its state.
func (h *host) mustPause(streams int) {
	h.t.Helper()
	if n, queued := len(h.vm.paused.streams), len(h.vm.paused.queue); n != streams || queued != streams {
		h.t.Errorf("%d streams are paused and %d queued, want %d", n, queued, streams)
	}
	if gauge, err := h.GetGaugeMetric(metricPausedStreams); err != nil || gauge != uint64(streams) {
		h.t.Errorf("the metric is %d (%v), want %d", gauge, err, streams)
	}
	if needed := h.vm.state()&statePaused != 0; needed != (streams > 0) {
		h.t.Errorf("the filter needs the ends of streams: %v, with %d paused", needed, streams)
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

// TestADisconnectReleasesAllState checks that nothing is kept of a request whose client disconnects
// during its delay, and that others continue.
func TestADisconnectReleasesAllState(t *testing.T) {
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

// TestDelaysEndInTheirTime checks that each delay ends on time, in any order, and that nothing
// is kept of it.
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
		t.Errorf("the stream is not aborted after its delay: %+v", response)
	}
	// The later ends of the streams have no effect.
	for _, id := range []uint32{long, both, short} {
		h.CompleteHttpContext(id)
	}
	h.mustPause(0)
}

// TestPanicAtTheEndOfADelay checks that a request continues or is aborted after its delay even
// if the filter panics.
func TestPanicAtTheEndOfADelay(t *testing.T) {
	t.Run("in counting the paused", func(t *testing.T) {
		h := delayingHost(t)
		short, both := h.delay("/short"), h.delay("/both")
		*h.vm.metrics.pausedStreams = noMetric
		h.pass(time.Second)
		if h.GetCurrentHttpStreamAction(short) != types.ActionContinue {
			t.Error("the delayed request hangs")
		}
		if response := h.GetSentLocalResponse(both); response == nil || response.StatusCode != 503 {
			t.Errorf("the response to the request is %+v, want an abort", response)
		}
		if n := h.counter(metricPanics); n != 2 {
			t.Errorf("the metric counts %d panics", n)
		}
	})
	t.Run("after its abort", func(t *testing.T) {
		h := delayingHost(t)
		both := h.delay("/both")
		h.vm.metrics.counters[metricAborts] = noMetric
		h.pass(time.Second)
		if response := h.GetSentLocalResponse(both); response == nil || response.StatusCode != 503 {
			t.Errorf("the response is %+v", response)
		}
		if h.GetCurrentHttpStreamAction(both) != types.ActionPause {
			t.Error("an aborted request continues")
		}
		h.pass(writeFaultsAfter)
		if n := h.counter(metricPanics); n != 1 {
			t.Errorf("the metric counts %d panics", n)
		}
	})
}

// TestPanicAfterAnAbort checks that an aborted request does not continue to the upstream even if
// the filter panics.
func TestPanicAfterAnAbort(t *testing.T) {
	h := start(t, frontendConfig, frontend)
	h.pass(time.Second)
	h.update("a", 503)
	h.vm.metrics.counters[metricAborts] = noMetric
	id := h.InitializeHttpContext()
	action := h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", "/"}}, true)
	if response := h.GetSentLocalResponse(id); action != types.ActionPause || response == nil || response.StatusCode != 503 {
		t.Errorf("action %v with response %+v", action, response)
	}
	h.pass(writeFaultsAfter)
	if n := h.counter(metricPanics); n != 1 {
		t.Errorf("the metric counts %d panics", n)
	}
}

// TestPanicInCountingAFault checks that a fault is injected even if the faults before it cannot be
// counted. These are written when there are many.
func TestPanicInCountingAFault(t *testing.T) {
	for path, status := range map[string]uint32{"/abort": 503, "/both": 503, "/short": 0} {
		t.Run(path, func(t *testing.T) {
			h := start(t, frontendConfig, frontend)
			h.pass(time.Second)
			h.answer(200, strings.Replace(delaying, "[", `[{"metadata":{"name":"abort"},"spec":{"rules":[
				{"match":{"path":{"exact":"/abort"}},"fault":{"abort":{"status":503}}}]}},`, 1), map[string]string{"etag": `"a"`})
			h.vm.metrics.counters[metricDryRunDelays] = noMetric
			fill := func() {
				h.vm.writeAt = time.Time{}
				for i := range maxFaults {
					h.vm.metrics.fault(dryRunDelays, strconv.Itoa(i), false)
				}
			}
			fill()
			id := h.delay(path)
			if path != "/abort" && len(h.vm.paused.streams) != 1 {
				t.Error("the request is not delayed")
			}
			fill()
			h.pass(time.Second)
			switch response := h.GetSentLocalResponse(id); {
			case status == 0 && (response != nil || h.GetCurrentHttpStreamAction(id) != types.ActionContinue):
				t.Errorf("a delayed request does not continue: %+v", response)
			case status != 0 && (response == nil || response.StatusCode != status):
				t.Errorf("the response is %+v, want an abort", response)
			case status != 0 && h.GetCurrentHttpStreamAction(id) != types.ActionPause:
				t.Error("an aborted request continues")
			}
			if n := h.counter(metricPanics); n == 0 {
				t.Error("nothing has failed")
			}
		})
	}
}

// TestPauseQueue compares the queue with a sorted list, for random streams of which some
// are removed early.
func TestPauseQueue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var queue pauseQueue
		var all []*pausedStream
		for range random.IntN(40) {
			stream := &pausedStream{due: time.Unix(int64(random.IntN(20)), 0)}
			queue.push(stream)
			all = append(all, stream)
		}
		for len(all) > 0 {
			for i, stream := range queue {
				if stream.at != i {
					t.Fatalf("the stream at %d has index %d", i, stream.at)
				}
			}
			at := 0
			if random.IntN(2) == 0 {
				at = random.IntN(len(queue))
			}
			removed := queue.remove(at)
			if at == 0 && slices.ContainsFunc(all, func(s *pausedStream) bool { return s.due.Before(removed.due) }) {
				t.Fatal("the first stream is not the earliest")
			}
			before := len(all)
			if all = slices.DeleteFunc(all, func(s *pausedStream) bool { return s == removed }); len(all) != before-1 || len(queue) != len(all) {
				t.Fatalf("%d streams are left of %d, %d in the queue", len(all), before, len(queue))
			}
		}
	}
}
