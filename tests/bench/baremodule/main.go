//go:build wasm

// Command baremodule is the smallest useful Wasm module for Envoy that Go compiles: the
// Go runtime, and three exports. The benchmarks compare the filter with it.
package main

import "unsafe"

func main() {}

//go:wasmexport proxy_abi_version_0_2_1
func version() {}

//go:wasmexport proxy_on_memory_allocate
func allocate(size uint32) uint32 { return uint32(uintptr(unsafe.Pointer(&make([]byte, size)[0]))) }

//go:wasmexport proxy_on_context_create
func create(uint32, uint32) {}
