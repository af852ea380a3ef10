//go:build !wasm

package main

import (
	"strings"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// requestHeader is requestHeader of host_wasm.go for the SDK's emulator.
func requestHeader(name string) (text string, present bool) {
	text, err := proxywasm.GetHttpRequestHeader(name)
	return text, err == nil
}

// property is property of host_wasm.go.
func property(path string) (text string, present bool) {
	value, err := proxywasm.GetProperty(strings.Split(path, "\x00"))
	return string(value), err == nil
}

// The functions for metrics are those of host_wasm.go. The SDK's gauges only support
// addition. Its function that records a value in a histogram sets a gauge.

func defineMetric(kind int32, name string) uint32 {
	if kind == counterMetric {
		return uint32(proxywasm.DefineCounterMetric(name))
	}
	return uint32(proxywasm.DefineGaugeMetric(name))
}

func incrementMetric(id uint32, by int64) { proxywasm.MetricGauge(id).Add(by) }

func recordMetric(id uint32, value uint64) { proxywasm.MetricHistogram(id).Record(value) }
