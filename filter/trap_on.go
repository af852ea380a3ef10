//go:build hfi_trap

package main

import (
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// timer is one that never fires.
var timer *time.Timer

// panics is the place at which this VM panics, or empty.
var panics place

// trap makes the filter fail on request. Tests build the filter with the tag
// hfi_trap to see how a sidecar, the daemon and a waiting hfi handle failures.
//
// The header x-hfi-trap ends the VM with a fatal error, which cannot be recovered.
// (Envoy ignores a module's call to exit.) The header x-hfi-panic names the place
// at which the VM panics from that request on; "none" stops this. The header
// x-hfi-collect waits for a garbage collection while a timer is set, so the Go
// runtime polls.
func (v *vm) trap(at place) {
	if at == onRequest {
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap"); err == nil {
			// A fatal error of the Go runtime.
			new(sync.Mutex).Unlock()
		}
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-collect"); err == nil {
			if timer == nil {
				timer = time.AfterFunc(time.Hour, func() {})
			}
			runtime.GC()
		}
		if named, err := proxywasm.GetHttpRequestHeader("x-hfi-panic"); err == nil {
			panics = place(strings.Clone(named))
		}
	}
	if at == panics {
		panic("on purpose")
	}
}
