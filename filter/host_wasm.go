package main

import "unsafe"

// getHeaderMapValue is a host function of proxy-wasm. The SDK's version allocates
// Go objects for the result, which for each header costs as much as the decision.
//
//go:wasmimport env proxy_get_header_map_value
func getHeaderMapValue(from int32, name unsafe.Pointer, nameSize int32, value, valueSize unsafe.Pointer) (status uint32)

// result receives the result of a host call. It is not a local variable, because
// Envoy may call back into the module during the call, and Go's stack can move.
var result struct {
	value *byte
	size  int32
}

// requestHeader returns the first value of a request header, and whether the
// header is present. The text must not be kept after the decision on the request:
// see buffer.
func requestHeader(name string) (text string, present bool) {
	const ofRequest, ok = 0, 0
	result.value, result.size = nil, 0
	status := getHeaderMapValue(ofRequest, unsafe.Pointer(unsafe.StringData(name)), int32(len(name)),
		unsafe.Pointer(&result.value), unsafe.Pointer(&result.size))
	if status != ok {
		return "", false
	}
	return unsafe.String(result.value, result.size), true
}
