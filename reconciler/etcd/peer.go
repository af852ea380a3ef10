package etcd

import (
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"github.com/boifi/hfi/reconciler/fleet"
)

// peerProblem says why a replica's address, which anyone who can write to etcd
// can set, is none that a replica can have, or is empty. own is the address of
// this replica. A name is not looked up here.
func peerProblem(address, own string) string {
	if address == "" {
		return "" // It has none; who wants to ask it says so.
	}
	host, ok := hostOf(address)
	switch {
	case !ok:
		return "its --advertise is not a base URL such as http://10.0.0.7:8080"
	case !maybeServer(host):
		return "its --advertise names no host that a replica can be on"
	case isLoopback(host):
		if ownHost, ok := hostOf(own); !ok || !isLoopback(ownHost) {
			return "its --advertise is a loopback address, and this replica's is not"
		}
	}
	return ""
}

// hostOf is the host of a base URL.
func hostOf(address string) (string, bool) {
	parsed, err := url.Parse(address)
	if err != nil || len(address) > maxAdvertise || parsed.Scheme != "http" && parsed.Scheme != "https" ||
		parsed.Hostname() == "" || parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" {
		return "", false
	}
	return parsed.Hostname(), true
}

// maybeServer reports whether a replica can be on that host. What a name
// resolves to is checked when it is connected to.
func maybeServer(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		// Some resolvers take 2852039166 and 0xa9fea9fe for addresses.
		last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
		_, err := strconv.ParseUint(strings.TrimSuffix(last, "."), 0, 64)
		return err != nil
	}
	return fleet.CanBeReplica(ip)
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		name := strings.ToLower(strings.TrimSuffix(host, "."))
		return name == "localhost" || strings.HasSuffix(name, ".localhost")
	}
	return ip.Unmap().IsLoopback()
}
