package main

import (
	"unsafe"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// What command link builds its short cuts on. In a module that it has not
// rewritten nobody calls these.

//go:wasmexport hfi_state
func hfiState() int32 { return current.state() }

// hfiOnRequestHeaders decides on a request. What it reads of the request is in
// room, so nothing of that may be kept beyond its end, and it may make no call
// that Envoy answers by another callback.
//
//go:wasmexport hfi_on_request_headers
func hfiOnRequestHeaders(id uint32, _ int32, _ int32) types.Action {
	return current.requestHeaders(id)
}

//go:wasmexport hfi_on_delete
func hfiOnDelete(id uint32) { current.streamDone(id) }

// room takes what Envoy hands over during hfiOnRequestHeaders, as far as it is
// large enough; what is not goes to the SDK, and becomes a Go object.
var room [4 << 10]byte

//go:wasmexport hfi_room
func hfiRoom() uint32 { return uint32(uintptr(unsafe.Pointer(&room))) }

//go:wasmexport hfi_room_end
func hfiRoomEnd() uint32 { return hfiRoom() + uint32(len(room)) }
