package main

import "fmt"

// The exports of the filter that the wrappers call. They are not part of the SDK,
// and the rewritten module does not export them.
const (
	// exportState returns which callbacks the filter needs, as a sum: stateRules, if
	// some rule may apply to a request; statePaused, if streams are paused and the
	// filter needs their ends; stateMixed, if the filter needs the starts and the
	// ends of streams, because their plugin contexts have different settings.
	exportState = "hfi_state"
	// exportRequestHeaders decides on a request. It has the parameters and the
	// result of proxy_on_request_headers.
	exportRequestHeaders = "hfi_on_request_headers"
	// exportCreate is called before a stream starts, with the IDs of the stream and
	// of its plugin context.
	exportCreate = "hfi_on_create"
	// exportDelete is called when a stream has ended, paused or not.
	exportDelete = "hfi_on_delete"
	// exportPlugin returns whether an ID is that of a live plugin context.
	exportPlugin = "hfi_plugin"
	// exportBuffer and exportBufferEnd return the start and the end of a buffer in
	// the module's memory. It receives the data that the host returns while the
	// filter decides on a request, and is valid until the filter has decided.
	exportBuffer    = "hfi_buffer"
	exportBufferEnd = "hfi_buffer_end"

	stateRules  = 1
	statePaused = 2
	stateMixed  = 4
)

// interfaceExport describes an export of the original module.
type interfaceExport struct {
	name string
	// signature is the required signature of the function. It is nil if the export
	// is not a function, or its signature is not checked.
	signature *funcType
	// need reports that the export is required.
	need bool
	// hide reports that the export is only called by wrappers, and not exported.
	hide bool
	// wrap returns the body of the function that is exported in its place. It is
	// nil if the original is exported.
	wrap func(w *wrappers, original uint32) code
}

func signature(params, results int) *funcType {
	const some = i32 + i32 + i32 + i32 + i32
	return &funcType{params: some[:params], results: some[:results]}
}

// interfaceExports has every export of the rewritten module and every export that
// the wrappers call. All others are removed, because Envoy calls each callback that
// is exported: those of TCP streams, bodies, trailers and responses, without which
// Envoy continues; proxy_on_log, without which it does nothing; those of gRPC
// calls and foreign functions, which the filter does not use.
var interfaceExports = []interfaceExport{
	// The host starts the module with these: Envoy calls _initialize and then main
	// or __main_void or, without _initialize, _start.
	{name: "_initialize", signature: signature(0, 0), need: true},
	{name: "_start", signature: signature(0, 0)},
	{name: "main"},
	{name: "__main_void"},

	// The version of the interface.
	{name: "proxy_abi_version_0_2_0"},
	{name: "proxy_abi_version_0_2_1"},

	// The host returns strings with these. It prefers malloc.
	{name: "memory"},
	{name: "proxy_on_memory_allocate", signature: signature(1, 1), need: true, wrap: (*wrappers).allocate},
	{name: "malloc", signature: signature(1, 1)},

	// Start, configuration, ticks, responses of the control plane and notes of other
	// VMs. The filter's state can change in each of these, so it is read after each.
	{name: "proxy_on_vm_start", signature: signature(2, 1), need: true, wrap: (*wrappers).vmStart},
	{name: "proxy_on_configure", signature: signature(2, 1), need: true, wrap: (*wrappers).control},
	{name: "proxy_on_tick", signature: signature(1, 0), need: true, wrap: (*wrappers).control},
	{name: "proxy_on_http_call_response", signature: signature(5, 0), need: true, wrap: (*wrappers).control},
	{name: "proxy_on_queue_ready", signature: signature(2, 0), need: true, wrap: (*wrappers).queueReady},

	// The callbacks for every request. The filter needs proxy_on_delete to notice
	// that a paused request has ended.
	{name: "proxy_on_context_create", signature: signature(2, 0), need: true, wrap: (*wrappers).contextCreate},
	{name: "proxy_on_request_headers", signature: signature(3, 1), need: true, wrap: (*wrappers).requestHeaders},
	{name: "proxy_on_delete", signature: signature(1, 0), need: true, wrap: (*wrappers).onDelete},

	// Envoy would call this for every stream; without it, a stream is done. The
	// wrapper of proxy_on_delete calls it for plugin contexts.
	{name: "proxy_on_done", signature: signature(1, 1), need: true, hide: true},

	{name: exportState, signature: signature(0, 1), need: true, hide: true},
	{name: exportRequestHeaders, signature: signature(3, 1), need: true, hide: true},
	{name: exportCreate, signature: signature(2, 0), need: true, hide: true},
	{name: exportDelete, signature: signature(1, 0), need: true, hide: true},
	{name: exportPlugin, signature: signature(1, 1), need: true, hide: true},
	{name: exportBuffer, signature: signature(0, 1), need: true, hide: true},
	{name: exportBufferEnd, signature: signature(0, 1), need: true, hide: true},
}

// find returns an export, after a check of its kind and signature.
func (m *module) find(want interfaceExport) (found export, ok bool, err error) {
	for _, e := range m.exports {
		if e.name != want.name {
			continue
		}
		if want.signature == nil {
			return e, true, nil
		}
		if e.kind != kindFunction {
			return e, false, fmt.Errorf("the export %s is a %s, want a function", e.name, kindNames[e.kind])
		}
		if is := m.types[m.functions[e.index]]; is != *want.signature {
			return e, false, fmt.Errorf("the export %s is a function %v, want %v", e.name, is, want.signature)
		}
		return e, true, nil
	}
	if want.need {
		return export{}, false, fmt.Errorf("the module has no export %s", want.name)
	}
	return export{}, false, nil
}
