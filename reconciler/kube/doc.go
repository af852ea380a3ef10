// Package kube is the daemon's view of the Kubernetes cluster that it runs
// in: which pods each policy targets, and the WasmPlugins by which Istio puts
// the filter in front of them.
//
// Every replica watches pods (their metadata alone) and WasmPlugins, and so
// answers alike. The replica that leads also acts: it keeps a WasmPlugin in
// each namespace that it was told of and that has a pod targeted, and writes
// into every WasmPlugin of this control plane on how many pods it is at work.
// Nothing of it is needed to serve policies: whatever the cluster denies or
// fails to answer is reported, and the rest goes on.
package kube
