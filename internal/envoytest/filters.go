package envoytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"
)

// Filter is an HTTP filter: its name in the chain, and its configuration with the "@type" that
// selects the filter.
type Filter struct {
	Name   string
	Config map[string]any
}

var router = Filter{
	Name:   "envoy.filters.http.router",
	Config: object{"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}

// Wasm is a proxy-wasm filter, run by V8.
type Wasm struct {
	// Name is the filter's name in the chain and its root ID. Empty means "hfi".
	Name string
	// VM is the VM ID. Empty means Name.
	VM string
	// File is the path of the module. If it is empty, Envoy fetches the module.
	File string
	// URL, Cluster and SHA256 (in hexadecimal) are for a module that Envoy fetches.
	URL, Cluster, SHA256 string
	// Configuration is the plugin configuration: a string unchanged, any other value as JSON. Nil
	// means none.
	Configuration any
	// FailurePolicy is FAIL_OPEN, FAIL_CLOSED or FAIL_RELOAD; empty means FAIL_OPEN.
	FailurePolicy string
}

// fetchLimit is the timeout for Envoy to fetch a module.
const fetchLimit = 20 * time.Second

// Filter returns the filter. It panics if the configuration cannot be encoded as JSON.
func (w Wasm) Filter() Filter {
	name := cmp.Or(w.Name, "hfi")
	code := object{"local": object{"filename": w.File}}
	if w.File == "" {
		code = object{"remote": object{
			"http_uri": object{"uri": w.URL, "cluster": w.Cluster, "timeout": seconds(fetchLimit)},
			"sha256":   w.SHA256,
		}}
	}
	vm := object{"vm_id": cmp.Or(w.VM, name), "runtime": "envoy.wasm.runtime.v8", "code": code}
	plugin := object{
		"name":           name,
		"root_id":        name,
		"failure_policy": cmp.Or(w.FailurePolicy, "FAIL_OPEN"),
		"vm_config":      vm,
	}
	if w.Configuration != nil {
		text, isText := w.Configuration.(string)
		if !isText {
			marshalled, err := json.Marshal(w.Configuration)
			if err != nil {
				panic(fmt.Sprintf("the configuration of Wasm filter %s: %v", name, err))
			}
			text = string(marshalled)
		}
		plugin["configuration"] = object{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text}
	}
	return Filter{Name: name, Config: object{
		"@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm", "config": plugin,
	}}
}

// NativeFaultName is the name of Envoy's fault filter in a chain and in Route.PerFilter.
const NativeFaultName = "envoy.filters.http.fault"

// NativeFault is a fault by Envoy's fault filter, with which tests compare hfi.
type NativeFault struct {
	// AbortStatus is an HTTP status (200 to 599), AbortGRPC a gRPC status; one at most. 0 is none.
	AbortStatus, AbortGRPC int
	// AbortPPM is the number of requests in a million that are aborted.
	AbortPPM int
	// Delay is the delay. 0 means none.
	Delay time.Duration
	// DelayPPM is the number of requests in a million that are delayed.
	DelayPPM int
	// Headers must all match. Each is a HeaderMatcher of Envoy's route API;
	// the name ":path" is the path with its query.
	Headers []map[string]any
}

// everyRequest is a rate in parts per million.
const everyRequest = 1_000_000

// AlwaysAbort aborts every request with an HTTP status.
func AlwaysAbort(status int) NativeFault {
	return NativeFault{AbortStatus: status, AbortPPM: everyRequest}
}

// AlwaysDelay delays every request.
func AlwaysDelay(delay time.Duration) NativeFault {
	return NativeFault{Delay: delay, DelayPPM: everyRequest}
}

// Config returns the filter's configuration, for a chain or for Route.PerFilter.
func (f NativeFault) Config() map[string]any {
	config := object{"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}
	abort := object{"percentage": perMillion(f.AbortPPM)}
	switch {
	case f.AbortStatus != 0:
		abort["http_status"] = f.AbortStatus
		config["abort"] = abort
	case f.AbortGRPC != 0:
		abort["grpc_status"] = f.AbortGRPC
		config["abort"] = abort
	}
	if f.Delay != 0 {
		config["delay"] = object{"fixed_delay": seconds(f.Delay), "percentage": perMillion(f.DelayPPM)}
	}
	if len(f.Headers) > 0 {
		config["headers"] = f.Headers
	}
	return config
}

// Filter returns the fault as a filter in a chain.
func (f NativeFault) Filter() Filter { return Filter{Name: NativeFaultName, Config: f.Config()} }

func perMillion(ppm int) object { return object{"numerator": ppm, "denominator": "MILLION"} }
