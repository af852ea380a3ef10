// Command filter is hfi's Wasm module for Envoy: it asks the daemon for the
// fault policies of its workload and delays and aborts requests by them.
//
// It speaks proxy-wasm 0.2 by the Go SDK. What a policy means is decided
// elsewhere, in packages selection and fault; this package is the glue between
// them and Envoy. Each Envoy thread runs a VM of its own with all of this in
// it, single-threaded, and so nothing here locks. It must use neither
// goroutines nor timers nor time.Sleep: the Go runtime would then poll, which
// Envoys before MinimumEnvoy answer by killing the VM; what has to happen
// later hangs on Envoy's tick.
//
// A module as the linker leaves it runs on the SDK's callbacks alone. Command
// link rewrites it to call the functions of exports_wasm.go instead, which saves
// most of the cost of a request.
package main

import (
	"math/rand/v2"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// current is this VM. There is exactly one in a module's memory.
var current = newVM(rand.Uint64, time.Now)

func init() { proxywasm.SetVMContext(&sdkVM{vm: current}) }

func main() {}

// sdkVM, sdkPlugin and sdkStream are the SDK's callbacks, each one guarded.
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

// OnPluginStart never fails: Envoy would take that as a reason to refuse the
// whole listener, or, with FAIL_OPEN, to leave the filter out in silence.
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

func (c *sdkPlugin) NewHttpContext(id uint32) types.HttpContext {
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
