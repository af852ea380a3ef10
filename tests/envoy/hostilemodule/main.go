//go:build wasm

// Command hostilemodule is a Wasm module for Envoy that writes to the shared data of the
// other modules with its vm_id: a request with the headers x-key and x-size sets the
// value with that key to as many zero bytes.
package main

import (
	"strconv"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

func main() {}

func init() { proxywasm.SetVMContext(&vm{}) }

type vm struct{ types.DefaultVMContext }

func (*vm) NewPluginContext(uint32) types.PluginContext { return &plugin{} }

type plugin struct{ types.DefaultPluginContext }

func (*plugin) NewHttpContext(uint32) types.HttpContext { return &stream{} }

type stream struct{ types.DefaultHttpContext }

func (*stream) OnHttpRequestHeaders(int, bool) types.Action {
	key, err := proxywasm.GetHttpRequestHeader("x-key")
	if err != nil {
		panic(err)
	}
	text, err := proxywasm.GetHttpRequestHeader("x-size")
	if err != nil {
		panic(err)
	}
	size, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	if err := proxywasm.SetSharedData(key, make([]byte, size), 0); err != nil {
		panic(err)
	}
	return types.ActionContinue
}
