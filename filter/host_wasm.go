package main

import (
	"strconv"
	"unsafe"
)

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

// hostGetProperty is a host function of proxy-wasm. The SDK's version encodes the path and
// allocates Go objects for the result each time.
//
//go:wasmimport env proxy_get_property
func hostGetProperty(path unsafe.Pointer, pathSize int32, value, valueSize unsafe.Pointer) (status uint32)

// property returns a property of the current request, and whether it is present. The names in
// the path are separated by zero bytes. The text must not be kept, like requestHeader's.
func property(path string) (text string, present bool) {
	const ok = 0
	result.value, result.size = nil, 0
	status := hostGetProperty(unsafe.Pointer(unsafe.StringData(path)), int32(len(path)),
		unsafe.Pointer(&result.value), unsafe.Pointer(&result.size))
	if status != ok {
		return "", false
	}
	return unsafe.String(result.value, result.size), true
}

// The SDK's functions for metrics format errors with package fmt, which would be a tenth
// of the module. They also lack one that sets a gauge.
//
//go:wasmimport env proxy_define_metric
func hostDefineMetric(kind int32, name unsafe.Pointer, nameSize int32, id unsafe.Pointer) (status uint32)

//go:wasmimport env proxy_increment_metric
func hostIncrementMetric(id uint32, offset int64) (status uint32)

//go:wasmimport env proxy_record_metric
func hostRecordMetric(id uint32, value uint64) (status uint32)

// metricID receives the result of hostDefineMetric.
var metricID uint32

// defineMetric returns the ID of a metric, which it defines if the host does not have it.
// Like the other functions for metrics, it panics if the host rejects the call.
func defineMetric(kind int32, name string) uint32 {
	status := hostDefineMetric(kind, unsafe.Pointer(unsafe.StringData(name)), int32(len(name)), unsafe.Pointer(&metricID))
	mustSucceed("defining the metric "+name, status)
	return metricID
}

func incrementMetric(id uint32, by int64) {
	mustSucceed("incrementing a metric", hostIncrementMetric(id, by))
}

// recordMetric sets a gauge.
func recordMetric(id uint32, value uint64) {
	mustSucceed("setting a metric", hostRecordMetric(id, value))
}

func mustSucceed(doing string, status uint32) {
	if status != 0 {
		panic(doing + ": the host returns status " + strconv.Itoa(int(status)))
	}
}
