package envoytest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"time"
)

// Filter is one HTTP filter: its name in the chain, and its configuration
// with the "@type" that tells Envoy which filter it is.
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
	// Name is the filter's name in the chain, and its root and VM id; empty means "hfi".
	Name string
	// File is the module's file. Where it is empty, Envoy fetches the module itself.
	File string
	// URL, Cluster and SHA256 (in hex) say where Envoy fetches the module from and what it must be.
	URL, Cluster, SHA256 string
	// Configuration is handed to the plugin: a string as it is, anything else
	// as JSON, nil as nothing.
	Configuration any
	// FailurePolicy is FAIL_OPEN, FAIL_CLOSED or FAIL_RELOAD; empty means FAIL_OPEN.
	FailurePolicy string
}

// fetchLimit bounds Envoy's own fetching of a module.
const fetchLimit = 20 * time.Second

// Filter builds the filter. A configuration that is no JSON panics: it is the test's mistake.
func (w Wasm) Filter() Filter {
	name := cmp.Or(w.Name, "hfi")
	code := object{"local": object{"filename": w.File}}
	if w.File == "" {
		code = object{"remote": object{
			"http_uri": object{"uri": w.URL, "cluster": w.Cluster, "timeout": seconds(fetchLimit)},
			"sha256":   w.SHA256,
		}}
	}
	plugin := object{
		"name":           name,
		"root_id":        name,
		"failure_policy": cmp.Or(w.FailurePolicy, "FAIL_OPEN"),
		"vm_config":      object{"vm_id": name, "runtime": "envoy.wasm.runtime.v8", "code": code},
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

// NativeFaultName is the name of Envoy's own fault filter in a chain, and in Route.PerFilter.
const NativeFaultName = "envoy.filters.http.fault"

// NativeFault is a fault by Envoy's own filter: what hfi is held against.
type NativeFault struct {
	// AbortStatus is an HTTP status (200 to 599), AbortGRPC a gRPC status; one at most. 0 is none.
	AbortStatus, AbortGRPC int
	// AbortPPM is how many requests in a million are aborted.
	AbortPPM int
	// Delay is none if 0.
	Delay time.Duration
	// DelayPPM is how many requests in a million are delayed.
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

// Config is the filter's configuration, for a chain or for Route.PerFilter.
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

// Filter is the fault as a filter in a chain.
func (f NativeFault) Filter() Filter { return Filter{Name: NativeFaultName, Config: f.Config()} }

func perMillion(ppm int) object { return object{"numerator": ppm, "denominator": "MILLION"} }
