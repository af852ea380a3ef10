package main

import "fmt"

// The exports of the filter that the wrappers call. The SDK knows none of
// them, and Envoy never sees them.
const (
	// exportState says what the filter must hear of: the sum of stateRules,
	// if some rule could act on a request, and of statePaused, if there are
	// paused streams, whose end it must not miss.
	exportState = "hfi_state"
	// exportRequestHeaders decides on a request, with the parameters and the
	// result of proxy_on_request_headers.
	exportRequestHeaders = "hfi_on_request_headers"
	// exportDelete hears that a stream is gone, paused or not.
	exportDelete = "hfi_on_delete"
	// exportRoom and exportRoomEnd are where, in the module's memory, a piece
	// begins and ends that takes what the host hands over while the filter
	// decides on a request. What is in it is the filter's until it has decided.
	exportRoom    = "hfi_room"
	exportRoomEnd = "hfi_room_end"

	stateRules  = 1
	statePaused = 2
)

// An interfaceExport is what this command has to know about one export of the
// module that it reads.
type interfaceExport struct {
	name string
	// signature is what the function must be; nil for what is no function, or
	// is not looked at.
	signature *funcType
	// need: without it there is no rewritten module.
	need bool
	// hide: it is for the wrappers to call, and not exported.
	hide bool
	// wrap makes the body of the function that is exported in its place; nil
	// if it is exported as it is.
	wrap func(w *wrappers, original uint32) code
}

func signature(params, results int) *funcType {
	const some = i32 + i32 + i32 + i32 + i32
	return &funcType{params: some[:params], results: some[:results]}
}

// interfaceExports has every export that matters. Those that are not here are
// taken out, because Envoy takes each as a reason to call: the callbacks of
// TCP streams, of bodies, trailers and responses, for which leaving them out
// means "continue"; proxy_on_log, for which it means nothing; those of shared
// queues, gRPC calls and foreign functions, which the filter does not use.
var interfaceExports = []interfaceExport{
	// How the host starts the module: Envoy calls _initialize and then main or
	// __main_void; or, without the first, _start.
	{name: "_initialize", signature: signature(0, 0), need: true},
	{name: "_start", signature: signature(0, 0)},
	{name: "main"},
	{name: "__main_void"},

	// How the host finds out what it has before it.
	{name: "proxy_abi_version_0_2_0"},
	{name: "proxy_abi_version_0_2_1"},

	// How the host hands over strings. It prefers malloc.
	{name: "memory"},
	{name: "proxy_on_memory_allocate", signature: signature(1, 1), need: true, wrap: (*wrappers).allocate},
	{name: "malloc", signature: signature(1, 1)},

	// What the filter lives by: its start, its configuration, its clock and
	// the answers of the control plane. Whatever the filter learns, it learns
	// in one of these, so after each it is asked for its state.
	{name: "proxy_on_vm_start", signature: signature(2, 1), need: true, wrap: (*wrappers).vmStart},
	{name: "proxy_on_configure", signature: signature(2, 1), need: true, wrap: (*wrappers).control},
	{name: "proxy_on_tick", signature: signature(1, 0), need: true, wrap: (*wrappers).control},
	{name: "proxy_on_http_call_response", signature: signature(5, 0), need: true, wrap: (*wrappers).control},

	// What comes with every request. Without proxy_on_delete the filter would
	// not hear that a request which it holds is gone.
	{name: "proxy_on_context_create", signature: signature(2, 0), need: true, wrap: (*wrappers).contextCreate},
	{name: "proxy_on_request_headers", signature: signature(3, 1), need: true, wrap: (*wrappers).requestHeaders},
	{name: "proxy_on_delete", signature: signature(1, 0), need: true, wrap: (*wrappers).onDelete},

	// Envoy would call it for every stream, and leaving it out means "done".
	// A plugin hears of its end from the wrapper of proxy_on_delete.
	{name: "proxy_on_done", signature: signature(1, 1), need: true, hide: true},

	{name: exportState, signature: signature(0, 1), need: true, hide: true},
	{name: exportRequestHeaders, signature: signature(3, 1), need: true, hide: true},
	{name: exportDelete, signature: signature(1, 0), need: true, hide: true},
	{name: exportRoom, signature: signature(0, 1), need: true, hide: true},
	{name: exportRoomEnd, signature: signature(0, 1), need: true, hide: true},
}

// find looks an export up and checks that it is what it must be.
func (m *module) find(want interfaceExport) (found export, ok bool, err error) {
	for _, e := range m.exports {
		if e.name != want.name {
			continue
		}
		if want.signature == nil {
			return e, true, nil
		}
		if e.kind != kindFunction {
			return e, false, fmt.Errorf("the module's export %s is a %s, and must be a function", e.name, kindNames[e.kind])
		}
		if is := m.types[m.functions[e.index]]; is != *want.signature {
			return e, false, fmt.Errorf("the module's export %s is a function %v, and must be %v", e.name, is, want.signature)
		}
		return e, true, nil
	}
	if want.need {
		return export{}, false, fmt.Errorf("the module has no export %s", want.name)
	}
	return export{}, false, nil
}
