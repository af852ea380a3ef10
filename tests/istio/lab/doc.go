// Package lab runs a Kubernetes cluster with an Istio mesh on one machine, with
// real servers but without containers: kube-apiserver, kube-controller-manager,
// etcd, istiod, and for every injected pod Istio's traffic interception, its agent
// and a stock Envoy. A simple node of this package runs the Pods of the API server
// as processes. Everything runs in Linux namespaces for processes, mounts and the
// network (see Main), so labs do not affect each other or the machine, and
// everything ends with the process that started it. Limitations: it enforces no
// NetworkPolicy and no resource limits, applies no seccomp profile, and has one
// node. The sidecars use plain text, because stock Envoy lacks the filters of
// Istio's own build.
package lab
