package main

import (
	"fmt"
	"strings"

	"github.com/boifi/hfi/filter/selection"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// identity is what Envoy's bootstrap says of the node that this VM runs in.
// It does not change while the VM lives.
type identity struct {
	// Node is the node's id; Pod the name of its pod.
	Node, Pod string
	// Service and Namespace are the workload's; empty if unknown.
	Service, Namespace string
	// Envoy is the version, "1.40", or empty if Envoy does not tell.
	Envoy string
	// TooOld: that version is before MinimumEnvoy.
	TooOld bool
}

// MinimumEnvoy is the first Envoy, by major and minor version, that is known
// to keep a VM of standard Go alive.
var MinimumEnvoy = [2]uint64{1, 39}

// missing names the metadata without which policies cannot be selected for
// this workload by name, and what they must then be for. Both are empty if nothing is missing.
func (i identity) missing() (metadata, applies string) {
	switch {
	case i.Service == "" && i.Namespace == "":
		return "WORKLOAD_NAME and no NAMESPACE", "any service in any namespace"
	case i.Service == "":
		return "WORKLOAD_NAME", "any service"
	case i.Namespace == "":
		return "NAMESPACE", "any namespace"
	}
	return "", ""
}

func (i identity) String() string {
	return fmt.Sprintf("service=%q namespace=%q pod=%q node=%q envoy=%q", i.Service, i.Namespace, i.Pod, i.Node, i.Envoy)
}

// readIdentity asks Envoy.
func readIdentity() identity {
	i := identity{
		Node:      nodeProperty("id"),
		Pod:       nodeProperty("metadata", "NAME"),
		Service:   nodeProperty("metadata", "WORKLOAD_NAME"),
		Namespace: nodeProperty("metadata", "NAMESPACE"),
	}
	version := func(part string) (uint64, bool) {
		value, err := proxywasm.GetProperty([]string{"xds", "node", "user_agent_build_version", "version", part})
		return littleEndian(value), err == nil && len(value) == 8
	}
	major, hasMajor := version("major_number")
	minor, hasMinor := version("minor_number")
	if hasMajor && hasMinor && major > 0 {
		i.Envoy = fmt.Sprintf("%d.%d", major, minor)
		i.TooOld = major < MinimumEnvoy[0] || major == MinimumEnvoy[0] && minor < MinimumEnvoy[1]
	}
	return i
}

// littleEndian is the number of an integer property.
func littleEndian(value []byte) (number uint64) {
	for i, b := range value {
		number |= uint64(b) << (8 * i)
	}
	return number
}

// nodeProperty reads a part of the node, under its present name and, for
// older hosts, under its former one.
func nodeProperty(path ...string) string {
	for _, root := range [][]string{{"xds", "node"}, {"node"}} {
		if value, err := proxywasm.GetProperty(append(root, path...)); err == nil && len(value) > 0 {
			return string(value)
		}
	}
	return ""
}

// workload is what selectors are compared with.
func (i identity) workload() selection.Workload {
	return selection.Workload{Service: i.Service, Namespace: i.Namespace}
}

// query is the part of a request's path that asks for this workload's policies.
func (i identity) query() string {
	return "service=" + escape(i.Service) + "&namespace=" + escape(i.Namespace)
}

// escape is text as a value in a query (RFC 3986, 2.3). It stands here because
// package net/url makes the module larger, which each Envoy pays for when it starts.
func escape(text string) string {
	var escaped strings.Builder
	for _, b := range []byte(text) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '.', b == '_', b == '~':
			escaped.WriteByte(b)
		default:
			fmt.Fprintf(&escaped, "%%%02X", b)
		}
	}
	return escaped.String()
}

// headerValue is text as a header may carry it: a stranger's bootstrap must
// not be able to make the request invalid.
func headerValue(text string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return '_'
		}
		return r
	}, text)
}
