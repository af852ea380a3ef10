//go:build hfi_trap

package main

import (
	"sync"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// trap ends the VM, as no recover can prevent, on a request that asks for it.
// Tests build the filter with the tag hfi_trap to see what a sidecar, the
// daemon and a waiting hfi make of a filter that is gone. It does not exit:
// Envoy ignores a module's wish to.
func (v *vm) trap() {
	if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap"); err == nil {
		// A mistake that the Go runtime never forgives.
		new(sync.Mutex).Unlock()
	}
}
