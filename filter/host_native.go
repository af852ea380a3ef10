//go:build !wasm

package main

import "github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"

// requestHeader is requestHeader of host_wasm.go for the SDK's emulator.
func requestHeader(name string) (text string, present bool) {
	text, err := proxywasm.GetHttpRequestHeader(name)
	return text, err == nil
}
