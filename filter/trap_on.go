//go:build hfi_trap

package main

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// panics is the place at which this VM panics, or empty.
var panics place

// trap makes the filter fail on request. Tests build the filter with the tag
// hfi_trap to see how a sidecar, the daemon and a waiting hfi handle failures.
//
// The header x-hfi-trap ends the VM with a fatal error, which cannot be recovered.
// (Envoy ignores a module's call to exit.) The header x-hfi-panic names the place
// at which the VM panics from that request on; "none" stops this. The header
// x-hfi-collect makes the VM collect garbage as often as it can from that request on,
// and logs the number of collections.
func (v *vm) trap(at place) {
	if at == onRequest {
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap"); err == nil {
			// A fatal error of the Go runtime.
			new(sync.Mutex).Unlock()
		}
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-collect"); err == nil {
			debug.SetGCPercent(1)
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			proxywasm.LogInfo("hfi: vm=" + v.id + " has collected garbage " + strconv.Itoa(int(stats.NumGC)) + " times")
		}
		if named, err := proxywasm.GetHttpRequestHeader("x-hfi-panic"); err == nil {
			panics = place(strings.Clone(named))
		}
	}
	if at == panics {
		panic("on purpose")
	}
}
