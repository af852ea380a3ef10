// Command filter is hfi's Wasm module for Envoy. It fetches the fault policies of
// its workload from the daemon, and delays and aborts requests accordingly.
//
// It implements proxy-wasm 0.2 with the Go SDK. Packages selection and fault
// decide which policies apply and what they do; this package connects them to
// Envoy. Each worker thread of Envoy runs its own single-threaded VM, so nothing
// in this package takes locks. It must not use goroutines, timers or time.Sleep:
// nothing runs while no callback does, and a wait would block Envoy's thread.
// Deferred work runs in Envoy's tick.
//
// Envoy compiles the whole module at its start, so this package must not import what makes
// it much larger, such as fmt, encoding/json and reflect. Command compile leaves out unused
// parts of the Go runtime, timers among them, and shows what makes the module large.
//
// Without further steps the module uses the SDK's callbacks. Command link rewrites
// the module to call the functions in exports_wasm.go instead, which saves most
// of the cost of a request.
package main

import (
	"math/rand/v2"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// current is this VM. A module's memory has exactly one.
var current = newVM(rand.Uint64, time.Now)

func init() { proxywasm.SetVMContext(&sdkVM{vm: current}) }

func main() {}

// sdkVM, sdkPlugin and sdkStream implement the SDK's callbacks. Each callback
// recovers from panics.
type sdkVM struct {
	types.DefaultVMContext
	vm *vm
}

func (c *sdkVM) NewPluginContext(id uint32) types.PluginContext {
	return &sdkPlugin{vm: c.vm, id: id}
}

type sdkPlugin struct {
	types.DefaultPluginContext
	vm *vm
	id uint32
}

// OnPluginStart never fails. If it did, Envoy would reject the whole listener or,
// with FAIL_OPEN, silently skip the filter.
func (c *sdkPlugin) OnPluginStart(int) types.OnPluginStartStatus {
	c.vm.guard("starting", func() { c.vm.startPlugin(c.id) })
	return types.OnPluginStartStatusOK
}

func (c *sdkPlugin) OnPluginDone() bool {
	c.vm.guard("stopping", func() { c.vm.stopPlugin(c.id) })
	return true
}

func (c *sdkPlugin) OnTick() {
	c.vm.guard("on a tick", func() { c.vm.tick(c.id) })
}

func (c *sdkPlugin) OnQueueReady(queue uint32) {
	c.vm.guard("on a note of another VM", func() { c.vm.queueReady(queue) })
}

func (c *sdkPlugin) NewHttpContext(id uint32) types.HttpContext {
	c.vm.startStream(id, c.id)
	return &sdkStream{vm: c.vm, id: id}
}

type sdkStream struct {
	types.DefaultHttpContext
	vm *vm
	id uint32
}

func (c *sdkStream) OnHttpRequestHeaders(int, bool) types.Action {
	return c.vm.requestHeaders(c.id)
}

func (c *sdkStream) OnHttpStreamDone() { c.vm.streamDone(c.id) }
