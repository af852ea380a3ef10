// Package lab is a Kubernetes cluster with an Istio mesh on one machine, of
// real servers and without containers: kube-apiserver, kube-controller-manager,
// etcd, istiod, and in front of every injected pod Istio's own interception,
// its agent and a stock Envoy. What runs is what the manifests say: a node of
// our own turns the Pods that Kubernetes makes into processes.
//
// All of it lives in namespaces of Linux for processes, mounts and the network
// (see Main), so two labs do not meet, nothing of the machine changes, and all
// ends with the process that began it.
//
// What it does not do: it enforces no NetworkPolicy and no limit of resources,
// applies no seccomp profile, has one node, and the sidecars speak plain text,
// because stock Envoy lacks the filters of Istio's own build.
package lab
