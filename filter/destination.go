package main

import (
	"strings"

	"github.com/boifi/hfi/filter/program"
)

// destination is where an outbound request goes. What is not known is empty. Like what it was
// read from, it must not be kept after the decision on the request.
type destination struct {
	read                     bool
	host, service, namespace string
}

// destination returns the part of the request's destination that a header of a program
// stands for. It is read from the host once a request.
func (r *request) destination(name string) (string, bool) {
	if !r.to.read && strings.HasPrefix(name, ":to-") {
		r.to = destinationOf(clusterName(), r.domain, func() string { return pseudoHeader(":authority") })
	}
	part := ""
	switch name {
	case program.Service:
		part, _ = r.receiver()
	case program.ServiceNamespace:
		_, part = r.receiver()
	case program.ToHost:
		part = r.to.host
	case program.ToService:
		part = r.to.service
	case program.ToNamespace:
		part = r.to.namespace
	}
	return part, part != ""
}

// receiver returns the service that receives a request in a waypoint, and its namespace, by the
// name of the chain of filters that it passes: inbound-vip|PORT|http|HOST. It is read from
// the host once a request.
func (r *request) receiver() (service, namespace string) {
	if !r.in.read {
		chain, _ := property("xds\x00filter_chain_name")
		r.in = receiverOf(chain, r.domain)
	}
	return r.in.service, r.in.namespace
}

func receiverOf(chain, domain string) destination {
	in := destination{read: true}
	if strings.HasPrefix(chain, "inbound-vip|") {
		in.service, in.namespace = serviceOf(chain[strings.LastIndexByte(chain, '|')+1:], domain)
	}
	return in
}

// clusterName returns the name of the cluster of the request's route, or "".
func clusterName() string {
	name, found := property("xds\x00cluster_name")
	if !found {
		name, _ = property("cluster_name")
	}
	return name
}

// destinationOf returns the destination of a request by the name of its cluster. In Istio that is
// outbound|PORT|SUBSET|HOST, and elsewhere any text. Where it does not say which host it is, the
// request's authority does. domain is that of this cluster's services, or empty.
func destinationOf(cluster, domain string, authority func() string) destination {
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
	case !strings.Contains(to.host, "."):
		to.service = to.host
		return to
	}
	to.service, to.namespace = serviceOf(to.host, domain)
	return to
}

// serviceOf returns the name and the namespace of the service whose host this is, or nothing:
// NAME.NAMESPACE.svc, alone or with the domain of a cluster. Others are not the cluster's, such as
// api.eu.svc.example.com.
func serviceOf(host, domain string) (name, namespace string) {
	name, rest, _ := strings.Cut(host, ".")
	namespace, rest, _ = strings.Cut(rest, ".")
	if name == "" || namespace == "" {
		return "", ""
	}
	switch svc, of, below := strings.Cut(rest, "."); {
	case svc != "svc":
	case !below, of == "cluster.local", of == "clusterset.local", of == domain && domain != "":
		return name, namespace
	}
	return "", ""
}

// hostOf returns the host of an authority, in lower case, without the port and the root's dot.
func hostOf(authority string) string {
	if port := strings.LastIndexByte(authority, ':'); port >= 0 && authority[len(authority)-1] != ']' {
		authority = authority[:port]
	}
	return lowered(strings.TrimSuffix(authority, "."))
}

// lowered is strings.ToLower for ASCII, without its tables of others.
func lowered(text string) string {
	for i := range len(text) {
		if 'A' <= text[i] && text[i] <= 'Z' {
			lower := []byte(text)
			for ; i < len(lower); i++ {
				if 'A' <= lower[i] && lower[i] <= 'Z' {
					lower[i] += 'a' - 'A'
				}
			}
			return string(lower)
		}
	}
	return text
}
