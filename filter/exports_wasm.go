package main

import (
	"unsafe"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// The exports in this file are called by the functions that command link adds to
// the module. Without them nothing calls the exports.

//go:wasmexport hfi_state
func hfiState() int32 { return current.state() }

// hfiOnRequestHeaders decides on a request. What it reads from the request is in
// buffer, so it must not keep any of that after it returns, and must not make a
// call to which Envoy responds with another callback.
//
//go:wasmexport hfi_on_request_headers
func hfiOnRequestHeaders(id uint32, _ int32, _ int32) types.Action {
	return current.requestHeaders(id)
}

//go:wasmexport hfi_on_create
func hfiOnCreate(id, plugin uint32) { current.startStream(id, plugin) }

//go:wasmexport hfi_on_delete
func hfiOnDelete(id uint32) { current.streamDone(id) }

// hfiPlugin reports whether an ID is that of a live plugin context.
//
//go:wasmexport hfi_plugin
func hfiPlugin(id uint32) bool {
	for _, p := range current.plugins {
		if p.id == id {
			return true
		}
	}
	return false
}

// buffer receives the data that Envoy returns during hfiOnRequestHeaders. If it is
// full, the SDK allocates Go objects instead.
var buffer [4 << 10]byte

//go:wasmexport hfi_buffer
func hfiBuffer() uint32 { return uint32(uintptr(unsafe.Pointer(&buffer))) }

//go:wasmexport hfi_buffer_end
func hfiBufferEnd() uint32 { return hfiBuffer() + uint32(len(buffer)) }
