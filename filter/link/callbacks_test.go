package main

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/boifi/hfi/filter/program"
)

// This compiles only if a program in the shared data fits into what the host may return.
var _ [1<<allocationBits - 2*program.MaxSize]struct{}

func TestIdleFilterGetsNoStreams(t *testing.T) {
	e := start(t, 0)
	for range 2 {
		e.call("proxy_on_context_create", is(2, 1))
		if action := e.call("proxy_on_request_headers", is(2, 9, 1)); action != 0 {
			t.Errorf("the action is %d, want 0: continue", action)
		}
		e.call("proxy_on_delete", is(2))
	}
}

func TestFilterWithRulesGetsRequests(t *testing.T) {
	e := start(t, stateRules)
	e.call("proxy_on_context_create", is(2, 1))

	if action := e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1"); action != 0 {
		t.Errorf("the action is %d, want the filter's: 0", action)
	}
	e.call("proxy_on_delete", is(2)) // Nothing is paused, so nothing is called.

	// A paused request changes the state, and the filter gets the ends of streams.
	e.answer[exportRequestHeaders], e.answer[exportState] = 1, stateRules+statePaused
	if action := e.call("proxy_on_request_headers", is(3, 4, 0), "hfi_on_request_headers 3 4 0", "hfi_state"); action != 1 {
		t.Errorf("the action is %d, want the filter's: 1", action)
	}
	e.answer[exportRequestHeaders] = 0
	e.call("proxy_on_request_headers", is(4, 4, 0), "hfi_on_request_headers 4 4 0")
	e.answer[exportState] = stateRules
	e.call("proxy_on_delete", is(3), "hfi_on_delete 3", "hfi_state")
	e.call("proxy_on_delete", is(4))
}

func TestPausedStreamsWithoutRules(t *testing.T) {
	e := start(t, statePaused)
	if action := e.call("proxy_on_request_headers", is(3, 4, 0)); action != 0 {
		t.Errorf("the action is %d, want 0: continue", action)
	}
	e.call("proxy_on_delete", is(2), "hfi_on_delete 2", "hfi_state")
	e.call("proxy_on_delete", is(3), "hfi_on_delete 3", "hfi_state")
	e.answer[exportState] = 0
	e.call("proxy_on_delete", is(4), "hfi_on_delete 4", "hfi_state")
	e.call("proxy_on_delete", is(5))
}

func TestStreamsInDifferentPluginContexts(t *testing.T) {
	e := start(t, stateMixed) // with plugin context 1
	e.call("proxy_on_context_create", is(2, 0), "proxy_on_context_create 2 0")
	e.call("proxy_on_context_create", is(3, 2), "hfi_on_create 3 2")
	e.call("proxy_on_context_create", is(4, 1), "hfi_on_create 4 1")
	e.call("proxy_on_delete", is(3), "hfi_on_delete 3", "hfi_state")
	e.answer[exportState] = 0
	e.call("proxy_on_delete", is(4), "hfi_on_delete 4", "hfi_state")
	e.call("proxy_on_context_create", is(5, 1))
	e.call("proxy_on_delete", is(5))
}

func TestControlCallbacksReadTheState(t *testing.T) {
	for callback, arguments := range map[string][]uint32{
		"proxy_on_vm_start":           {1, 7},
		"proxy_on_configure":          {1, 8},
		"proxy_on_tick":               {1},
		"proxy_on_http_call_response": {1, 2, 3, 4, 5},
	} {
		t.Run(callback, func(t *testing.T) {
			e := start(t, 0)
			e.answer[exportState], e.answer[callback] = stateRules, 77
			original := callback
			for _, a := range arguments {
				original += fmt.Sprint(" ", a)
			}
			calls := []string{original, "hfi_state"}
			if callback == "proxy_on_vm_start" {
				calls = []string{"hfi_buffer", "hfi_buffer_end", original, "hfi_state"}
			}
			result := e.call(callback, arguments, calls...)
			if has := len(e.module.ExportedFunction(callback).Definition().ResultTypes()) > 0; has && result != 77 {
				t.Errorf("the result is %d, want the original's: 77", result)
			}
			e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1")
			e.answer[exportState] = 0
			e.call(callback, arguments, calls...)
			e.call("proxy_on_request_headers", is(2, 9, 1))
		})
	}
}

// A note for a VM that no longer exists can come to the next one with its ID.
func TestNotesForPluginContextsOnly(t *testing.T) {
	e := start(t, 0)
	e.call("proxy_on_queue_ready", is(1, 5), "hfi_plugin 1")
	e.answer[exportPlugin], e.answer[exportState] = 1, stateRules
	e.call("proxy_on_queue_ready", is(1, 5), "hfi_plugin 1", "proxy_on_queue_ready 1 5", "hfi_state")
	e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1")
}

func TestEndOfPluginContext(t *testing.T) {
	for _, before := range []uint32{0, stateRules, stateRules + statePaused} {
		e := start(t, before)
		e.answer[exportState] = 0
		e.call("proxy_on_delete", is(1), "proxy_on_done 1", "proxy_on_delete 1", "hfi_state")
		e.call("proxy_on_request_headers", is(2, 9, 1))
		// Envoy may now use the ID for a stream, and the SDK must not be called for it.
		e.call("proxy_on_context_create", is(1, 5))
		e.call("proxy_on_delete", is(1))
	}
}

func TestPluginCannotDelayItsEnd(t *testing.T) {
	e := start(t, 0)
	for _, answer := range []uint32{0, 1} {
		e.call("proxy_on_context_create", is(9, 0), "proxy_on_context_create 9 0")
		e.answer["proxy_on_done"] = answer
		e.call("proxy_on_delete", is(9), "proxy_on_done 9", "proxy_on_delete 9", "hfi_state")
	}
}

func TestPluginContextsAndStreams(t *testing.T) {
	e := start(t, statePaused) // with plugin context 1
	for id := uint32(2); id <= maxPlugins; id++ {
		e.call("proxy_on_context_create", is(id*100, 0), fmt.Sprintf("proxy_on_context_create %d 0", id*100))
	}
	streamEnds := func(id uint32) {
		t.Helper()
		e.call("proxy_on_delete", is(id), fmt.Sprint("hfi_on_delete ", id), "hfi_state")
	}
	pluginEnds := func(id uint32) {
		t.Helper()
		e.call("proxy_on_delete", is(id), fmt.Sprint("proxy_on_done ", id), fmt.Sprint("proxy_on_delete ", id), "hfi_state")
	}
	streamEnds(2)
	streamEnds(0) // Not a context ID, but the value of a free slot.
	pluginEnds(800)
	streamEnds(0)

	// A freed slot is used again. While there is a plugin context without a slot, the
	// filter is asked which contexts are plugin contexts.
	e.call("proxy_on_context_create", is(9000, 0), "proxy_on_context_create 9000 0")
	streamEnds(3)
	e.call("proxy_on_context_create", is(9001, 0), "proxy_on_context_create 9001 0")
	e.call("proxy_on_context_create", is(9002, 0), "proxy_on_context_create 9002 0")
	pluginEnds(9000)
	e.call("proxy_on_delete", is(3), "hfi_plugin 3", "hfi_on_delete 3", "hfi_state")
	e.answer[exportPlugin] = 1
	for _, id := range []string{"9001", "9002"} {
		number, _ := strconv.Atoi(id)
		e.call("proxy_on_delete", is(uint32(number)), "hfi_plugin "+id, "proxy_on_done "+id, "proxy_on_delete "+id, "hfi_state")
	}
	streamEnds(3)

	pluginEnds(1)
	for id := uint32(maxPlugins); id >= 2; id-- {
		if id != 8 {
			pluginEnds(id * 100)
		}
	}
}

func TestPluginContextCreatedTwice(t *testing.T) {
	e := start(t, 0) // with plugin context 1
	e.call("proxy_on_context_create", is(2, 0), "proxy_on_context_create 2 0")
	e.call("proxy_on_delete", is(1), "proxy_on_done 1", "proxy_on_delete 1", "hfi_state")
	// There is now a free slot before the one with ID 2.
	e.call("proxy_on_context_create", is(2, 0), "proxy_on_context_create 2 0")
	e.call("proxy_on_delete", is(2), "proxy_on_done 2", "proxy_on_delete 2", "hfi_state")
	e.call("proxy_on_delete", is(2))
}
