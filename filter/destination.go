package main

import (
	"strings"

	"github.com/boifi/hfi/filter/program"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// destination is where an outbound request goes. What is not known is empty.
type destination struct {
	read                     bool
	host, service, namespace string
}

// destination returns the part of the request's destination that a header of a program
// stands for. It is read from the host once a request.
func (r *request) destination(name string) (string, bool) {
	if !r.to.read {
		r.to = destinationOf(clusterName(), func() string { return pseudoHeader(":authority") })
	}
	part := ""
	switch name {
	case program.ToHost:
		part = r.to.host
	case program.ToService:
		part = r.to.service
	case program.ToNamespace:
		part = r.to.namespace
	}
	return part, part != ""
}

// clusterName returns the name of the cluster of the request's route, or "".
func clusterName() string {
	name, err := proxywasm.GetProperty([]string{"xds", "cluster_name"})
	if err != nil {
		name, _ = proxywasm.GetProperty([]string{"cluster_name"})
	}
	return string(name)
}

// destinationOf returns the destination of a request by the name of its cluster. In Istio that is
// outbound|PORT|SUBSET|HOST, and elsewhere any text. Where it does not say which host it is, the
// request's authority does.
func destinationOf(cluster string, authority func() string) destination {
	to := destination{read: true, host: cluster}
	if strings.HasPrefix(cluster, "outbound|") {
		to.host = cluster[strings.LastIndexByte(cluster, '|')+1:]
	}
	switch {
	case cluster == "BlackHoleCluster": // The request goes nowhere.
		to.host = ""
		return to
	case cluster == "PassthroughCluster", strings.HasPrefix(to.host, "*"):
		to.host = hostOf(authority())
		return to
	}
	service, rest, dotted := strings.Cut(to.host, ".")
	if !dotted {
		to.service = to.host
		return to
	}
	// NAME.NAMESPACE.svc, with or without the cluster's domain.
	namespace, rest, _ := strings.Cut(rest, ".")
	if rest == "svc" || strings.HasPrefix(rest, "svc.") {
		to.service, to.namespace = service, namespace
	}
	return to
}

// hostOf returns the host of an authority, in lower case and without the port.
func hostOf(authority string) string {
	if port := strings.LastIndexByte(authority, ':'); port >= 0 && authority[len(authority)-1] != ']' {
		authority = authority[:port]
	}
	host := []byte(authority)
	for i, b := range host {
		if 'A' <= b && b <= 'Z' {
			host[i] = b + 'a' - 'A'
		}
	}
	return string(host)
}
