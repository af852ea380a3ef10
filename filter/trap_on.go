//go:build hfi_trap

package main

import (
	"strings"
	"sync"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// panics is the place at which this VM panics each time, if there is one.
var panics place

// trap breaks the filter on requests that ask for it. Tests build it with the
// tag hfi_trap to see what a sidecar, the daemon and a waiting hfi make of that.
//
// The header x-hfi-trap ends the VM, as no recover can prevent. It does not
// exit: Envoy ignores a module's wish to. The header x-hfi-panic names the place at
// which the VM panics from that request on; "none" ends it.
func (v *vm) trap(at place) {
	if at == onRequest {
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap"); err == nil {
			// A mistake that the Go runtime never forgives.
			new(sync.Mutex).Unlock()
		}
		if named, err := proxywasm.GetHttpRequestHeader("x-hfi-panic"); err == nil {
			panics = place(strings.Clone(named))
		}
	}
	if at == panics {
		panic("on purpose")
	}
}
