// Package kube is the daemon's view of the Kubernetes cluster that it runs
// in: the pods that each policy targets, and the WasmPlugins with which Istio
// adds the filter to them.
//
// Every replica watches pods (metadata only) and WasmPlugins, and so reports
// the same. The leader also acts: it keeps a WasmPlugin in each configured
// namespace that has a targeted pod, and writes to the status of every
// WasmPlugin of this control plane on how many pods its filter is loaded.
// Serving policies depends on none of this: what the cluster denies or fails
// to answer is reported, and the rest continues.
package kube
