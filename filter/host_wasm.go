package main

import "unsafe"

// getHeaderMapValue is proxy-wasm's, as the SDK has it too. The SDK makes Go
// objects of what Envoy hands back, for every header of every request; that
// costs as much as the decision.
//
//go:wasmimport env proxy_get_header_map_value
func getHeaderMapValue(from int32, name unsafe.Pointer, nameSize int32, value, valueSize unsafe.Pointer) (status uint32)

// handed is where Envoy writes what it hands back. It is no local variable:
// Envoy may call the module meanwhile, by which Go's stack can move.
var handed struct {
	value *byte
	size  int32
}

// requestHeader is a request's header, of several the first. It is false if
// there is none. Nobody may keep the text beyond the decision on the request:
// see room.
func requestHeader(name string) (text string, present bool) {
	const ofRequest, ok = 0, 0
	handed.value, handed.size = nil, 0
	status := getHeaderMapValue(ofRequest, unsafe.Pointer(unsafe.StringData(name)), int32(len(name)),
		unsafe.Pointer(&handed.value), unsafe.Pointer(&handed.size))
	if status != ok {
		return "", false
	}
	return unsafe.String(handed.value, handed.size), true
}
