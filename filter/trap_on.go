//go:build hfi_trap

package main

import (
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// The names of values in the shared data: whether the leader is to trap, and the place at
// which the VMs of this Envoy panic.
const trapLeader, panicPlace = "hfi.trap", "hfi.panic"

// trap makes the filter fail on request. Tests build the filter with the tag
// hfi_trap to see how a sidecar, the daemon and a waiting hfi handle failures.
//
// The header x-hfi-trap ends the VM with a fatal error, which cannot be recovered.
// (Envoy ignores a module's call to exit.) The header x-hfi-trap-leader does that to the
// VM that asks the daemon for all, in its next tick. The header x-hfi-panic names the place
// at which the Envoy's VMs panic from that request on; "none" stops this. The header
// x-hfi-collect makes the VM collect garbage as often as it can from that request on,
// and logs the number of collections.
func (v *vm) trap(at place) {
	if at == onRequest {
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap"); err == nil {
			// A fatal error of the Go runtime.
			new(sync.Mutex).Unlock()
		}
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-trap-leader"); err == nil {
			_ = proxywasm.SetSharedData(trapLeader, []byte{1}, 0)
		}
		if _, err := proxywasm.GetHttpRequestHeader("x-hfi-collect"); err == nil {
			debug.SetGCPercent(1)
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			proxywasm.LogInfo("hfi: vm=" + v.id + " has collected garbage " + strconv.Itoa(int(stats.NumGC)) + " times")
		}
		if named, err := proxywasm.GetHttpRequestHeader("x-hfi-panic"); err == nil {
			_ = proxywasm.SetSharedData(panicPlace, []byte(named), 0)
		}
	}
	if at == onLead {
		if value, _, err := proxywasm.GetSharedData(trapLeader); err == nil && len(value) > 0 {
			_ = proxywasm.SetSharedData(trapLeader, nil, 0)
			new(sync.Mutex).Unlock()
		}
	}
	if named, _, err := proxywasm.GetSharedData(panicPlace); err == nil && place(named) == at {
		panic("on purpose")
	}
}
