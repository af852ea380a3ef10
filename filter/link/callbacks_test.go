package main

import (
	"fmt"
	"testing"
)

func TestNoStreamOfAnIdleFilterReachesAnyone(t *testing.T) {
	e := start(t, 0)
	for range 2 {
		e.call("proxy_on_context_create", is(2, 1))
		if action := e.call("proxy_on_request_headers", is(2, 9, 1)); action != 0 {
			t.Errorf("the action is %d, want 0: continue", action)
		}
		e.call("proxy_on_delete", is(2))
	}
}

func TestARuleHasTheFilterAskedAboutEveryRequest(t *testing.T) {
	e := start(t, stateRules)
	e.call("proxy_on_context_create", is(2, 1))

	if action := e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1"); action != 0 {
		t.Errorf("the action is %d, want the filter's: 0", action)
	}
	e.call("proxy_on_delete", is(2)) // Nothing is paused, so nobody is told.

	// A paused request changes the state, and from now on ends are heard.
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

func TestPausedStreamsOutliveTheRules(t *testing.T) {
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

func TestAfterEachControlCallbackTheFilterIsAskedForItsState(t *testing.T) {
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
				calls = []string{"hfi_room", "hfi_room_end", original, "hfi_state"}
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

func TestTheEndOfAPluginContextReachesTheSDKAndStopsItsRules(t *testing.T) {
	for _, before := range []uint32{0, stateRules, stateRules + statePaused} {
		e := start(t, before)
		e.answer[exportState] = 0
		e.call("proxy_on_delete", is(1), "proxy_on_done 1", "proxy_on_delete 1", "hfi_state")
		e.call("proxy_on_request_headers", is(2, 9, 1))
		// Envoy may give the id to a stream now, and the SDK must not hear of that.
		e.call("proxy_on_context_create", is(1, 5))
		e.call("proxy_on_delete", is(1))
	}
}

func TestAPluginThatWouldRatherStayEndsAllTheSame(t *testing.T) {
	e := start(t, 0)
	for _, answer := range []uint32{0, 1} {
		e.call("proxy_on_context_create", is(9, 0), "proxy_on_context_create 9 0")
		e.answer["proxy_on_done"] = answer
		e.call("proxy_on_delete", is(9), "proxy_on_done 9", "proxy_on_delete 9", "hfi_state")
	}
}

func TestPluginContextsOfOneVMAreToldFromItsStreams(t *testing.T) {
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
	streamEnds(0) // No context has this id; a slot that is free has it.
	pluginEnds(800)
	streamEnds(0)

	// A freed slot serves the next one. One more than there are slots works,
	// but its end passes for a stream's.
	e.call("proxy_on_context_create", is(9000, 0), "proxy_on_context_create 9000 0")
	e.call("proxy_on_context_create", is(9001, 0), "proxy_on_context_create 9001 0")
	pluginEnds(9000)
	streamEnds(9001)

	pluginEnds(1)
	for id := uint32(maxPlugins); id >= 2; id-- {
		if id != 8 {
			pluginEnds(id * 100)
		}
	}
}

func TestAPluginContextCreatedTwiceEndsOnce(t *testing.T) {
	e := start(t, 0) // with plugin context 1
	e.call("proxy_on_context_create", is(2, 0), "proxy_on_context_create 2 0")
	e.call("proxy_on_delete", is(1), "proxy_on_done 1", "proxy_on_delete 1", "hfi_state")
	// There is a free slot now before the one that has 2.
	e.call("proxy_on_context_create", is(2, 0), "proxy_on_context_create 2 0")
	e.call("proxy_on_delete", is(2), "proxy_on_done 2", "proxy_on_delete 2", "hfi_state")
	e.call("proxy_on_delete", is(2))
}
