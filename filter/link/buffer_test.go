package main

import (
	"slices"
	"testing"
)

// allocations returns the addresses of allocations of these sizes by the host.
func (e *envoy) allocations(sizes ...uint64) (addresses []uint32) {
	e.t.Helper()
	for _, size := range sizes {
		results, err := e.module.ExportedFunction("proxy_on_memory_allocate").Call(e.ctx, size)
		if err != nil {
			e.t.Fatalf("allocating %d bytes trapped: %v", size, err)
		}
		addresses = append(addresses, uint32(results[0]))
	}
	return addresses
}

// elsewhere is the address of the tiny module's own allocation.
const elsewhere = 7

// startWithBuffer returns a filter with rules and a buffer from 1000 to 1100.
func startWithBuffer(t *testing.T) *envoy {
	e := start(t, stateRules)
	e.answer[exportBuffer], e.answer[exportBufferEnd], e.answer["proxy_on_memory_allocate"] = 1000, 1100, elsewhere
	e.call("proxy_on_vm_start", is(1, 0), "hfi_buffer", "hfi_buffer_end", "proxy_on_vm_start 1 0", "hfi_state")
	return e
}

func (e *envoy) wantAllocations(sizes []uint64, want ...uint32) {
	e.t.Helper()
	if got := e.allocations(sizes...); !slices.Equal(got, want) {
		e.t.Errorf("%d bytes are at %d, want %d", sizes, got, want)
	}
}

func TestRequestDataIsInTheBuffer(t *testing.T) {
	e := startWithBuffer(t)
	for range 2 { // Each request can use the whole buffer.
		decided := false
		e.during[exportRequestHeaders] = func() {
			decided = true
			// Allocations do not overlap. One that does not fit is elsewhere, and a smaller one after it is in the buffer.
			e.wantAllocations([]uint64{40, 0, 50, 11, 10, 1, 1 << 22}, 1000, 1040, 1040, elsewhere, 1090, elsewhere, elsewhere)
			e.calls = nil
		}
		e.call("proxy_on_request_headers", is(2, 9, 1))
		if !decided {
			t.Fatal("the filter was not called")
		}
	}
}

// TestHugeDataGetsNoMemory checks that the host gets no memory for data that is larger than any
// that the filter reads, within a request and outside, with a buffer and without.
func TestHugeDataGetsNoMemory(t *testing.T) {
	sizes, want := []uint64{8<<20 - 1, 8 << 20, 1 << 31, 1<<32 - 1, 1 << 20}, []uint32{elsewhere, 0, 0, 0, elsewhere}
	without := start(t, stateRules)
	without.answer["proxy_on_memory_allocate"] = elsewhere
	for _, e := range []*envoy{startWithBuffer(t), without} {
		e.wantAllocations(sizes, want...)
		e.calls = nil
		decided := false
		e.during[exportRequestHeaders] = func() {
			decided = true
			e.wantAllocations(sizes, want...)
			e.calls = nil
		}
		if e.call("proxy_on_request_headers", is(2, 9, 1)); !decided {
			t.Error("the filter was not called")
		}
	}
}

func TestOnlyRequestsUseTheBuffer(t *testing.T) {
	e := startWithBuffer(t)
	check := func() {
		t.Helper()
		e.wantAllocations([]uint64{1, 40}, elsewhere, elsewhere)
		e.calls = nil
	}
	check()
	for callback, arguments := range map[string][]uint32{
		"proxy_on_configure": {1, 8}, "proxy_on_tick": {1}, "proxy_on_http_call_response": {1, 2, 3, 4, 5},
	} {
		// After a request too, whether it was paused or not.
		e.call("proxy_on_request_headers", is(2, 9, 1), "hfi_on_request_headers 2 9 1")
		seen := false
		e.during[callback] = func() { seen = true; check() }
		e.call(callback, arguments, "hfi_state")
		if !seen {
			t.Errorf("%s was not called", callback)
		}
	}
	e.answer[exportRequestHeaders] = 1
	e.during[exportState] = check
	e.call("proxy_on_request_headers", is(2, 9, 1))
	check()
}

func TestWithoutBufferTheModuleAllocates(t *testing.T) {
	e := start(t, stateRules)
	e.answer["proxy_on_memory_allocate"] = elsewhere
	e.during[exportRequestHeaders] = func() {
		e.wantAllocations([]uint64{1, 40}, elsewhere, elsewhere)
		e.calls = nil
	}
	e.call("proxy_on_request_headers", is(2, 9, 1))
}

// TestNestedRequestUsesTheRest checks that a request during another one, which Envoy does
// not send, does not overwrite the data of the first.
func TestNestedRequestUsesTheRest(t *testing.T) {
	e := startWithBuffer(t)
	depth := 0
	e.during[exportRequestHeaders] = func() {
		depth++
		if depth == 1 {
			e.wantAllocations([]uint64{30}, 1000)
			e.call("proxy_on_request_headers", is(3, 9, 1))
			e.wantAllocations([]uint64{30}, 1030)
		} else {
			e.wantAllocations([]uint64{70, 1}, 1030, elsewhere)
		}
		e.calls = nil
	}
	e.call("proxy_on_request_headers", is(2, 9, 1))
	if depth != 2 {
		t.Errorf("the filter was called %d times, want 2", depth)
	}
}
