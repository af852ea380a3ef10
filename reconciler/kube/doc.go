// Package kube is the daemon's view of the Kubernetes cluster that it runs
// in: the pods that each policy targets, and the plugins with which Istio adds
// the filter to them. A plugin is a WasmPlugin, a TrafficExtension or an
// EnvoyFilter.
//
// Every replica watches pods (metadata only) and plugins, and so reports the
// same. The leader also acts: in the configured namespaces it keeps a plugin for
// each workload that a policy targets, or one for all of a namespace, and it
// writes to the status of every plugin of this control plane on how many pods
// its filter is loaded. Serving policies depends on none of this: what the
// cluster denies or fails to answer is reported, and the rest continues.
package kube
