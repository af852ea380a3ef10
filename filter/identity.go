package main

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// identity is the node of this VM, from Envoy's bootstrap. It does not change
// during the life of the VM.
type identity struct {
	// Node is the node's ID, Pod the name of its pod.
	Node, Pod string
	// Service and Namespace are those of the workload, or empty if unknown.
	Service, Namespace string
	// Gateway is the name of the gateway, or Any if it is unknown. It is empty if the node
	// is not one of Istio's gateways. Waypoint is the same for waypoints of its ambient mode.
	Gateway, Waypoint string
	// Envoy is the version, such as "1.40", or empty if unknown.
	Envoy string
	// TooOld reports that the version is older than MinimumEnvoy.
	TooOld bool
}

// MinimumEnvoy is the first version of Envoy (major, minor) that the filter is tested
// for: tests/oldhost.
var MinimumEnvoy = [2]uint64{1, 32}

// missing returns what is not known of a workload for the selection of policies, and
// which policies apply without it. Both are empty if nothing is missing.
func missing(w selection.Workload) (metadata, applies string) {
	gateway := w.Gateway != ""
	unnamed := w.Service == "" && !gateway && !w.Waypoint || w.Gateway == schema.Any
	switch {
	case gateway && unnamed && w.Namespace == "":
		return "WORKLOAD_NAME and no NAMESPACE", "any gateway in any namespace"
	case gateway && unnamed:
		return "WORKLOAD_NAME", "any gateway"
	case unnamed && w.Namespace == "":
		return "WORKLOAD_NAME and no NAMESPACE", "any service in any namespace"
	case unnamed:
		return "WORKLOAD_NAME", "any service"
	case w.Namespace == "":
		return "NAMESPACE", "any namespace"
	}
	return "", ""
}

func (i identity) String() string {
	name := "service=" + quote(i.Service)
	if i.Gateway != "" {
		name = "gateway=" + quote(i.Gateway)
	}
	if i.Waypoint != "" {
		name = "waypoint=" + quote(i.Waypoint)
	}
	return name + " namespace=" + quote(i.Namespace) + " pod=" + quote(i.Pod) +
		" node=" + quote(i.Node) + " envoy=" + quote(i.Envoy)
}

// quote quotes a text for a log line, which no text can end.
func quote(text string) string {
	var quoted strings.Builder
	quoted.WriteByte('"')
	for _, b := range []byte(text) {
		switch {
		case b == '"', b == '\\':
			quoted.WriteByte('\\')
			quoted.WriteByte(b)
		case b < ' ', b == 0x7f:
			quoted.WriteString(`\x`)
			writeHex(&quoted, b)
		default:
			quoted.WriteByte(b)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

func writeHex(to *strings.Builder, b byte) {
	const digits = "0123456789ABCDEF"
	to.WriteByte(digits[b>>4])
	to.WriteByte(digits[b&0xf])
}

// readIdentity reads the identity from Envoy.
func readIdentity() identity {
	i := identity{
		Node:      nodeProperty("id"),
		Pod:       nodeProperty("metadata", "NAME"),
		Service:   nodeProperty("metadata", "WORKLOAD_NAME"),
		Namespace: nodeProperty("metadata", "NAMESPACE"),
	}
	// Istio's gateways are routers: ID is router~IP~POD.NAMESPACE~DOMAIN.
	if strings.HasPrefix(i.Node, "router~") {
		i.Gateway = i.gatewayName()
	}
	if strings.HasPrefix(i.Node, "waypoint~") {
		i.Waypoint = i.gatewayName()
	}
	version := func(part string) (uint64, bool) {
		value, err := proxywasm.GetProperty([]string{"xds", "node", "user_agent_build_version", "version", part})
		return littleEndian(value), err == nil && len(value) == 8
	}
	major, hasMajor := version("major_number")
	minor, hasMinor := version("minor_number")
	if hasMajor && hasMinor && major > 0 {
		i.Envoy = versionName(major, minor)
		i.TooOld = major < MinimumEnvoy[0] || major == MinimumEnvoy[0] && minor < MinimumEnvoy[1]
	}
	return i
}

// gatewayName is the name of a gateway or waypoint, or Any.
func (i identity) gatewayName() string {
	return cmp.Or(nodeProperty("metadata", "LABELS", "gateway.networking.k8s.io/gateway-name"), i.Service, schema.Any)
}

func versionName(major, minor uint64) string {
	return strconv.FormatUint(major, 10) + "." + strconv.FormatUint(minor, 10)
}

// tooOld is why the filter does nothing in this Envoy.
func (i identity) tooOld() string {
	return "Envoy " + i.Envoy + " is not supported: no faults are injected; the filter needs Envoy " +
		versionName(MinimumEnvoy[0], MinimumEnvoy[1]) + " or newer"
}

// littleEndian decodes an integer property.
func littleEndian(value []byte) (number uint64) {
	for i, b := range value {
		number |= uint64(b) << (8 * i)
	}
	return number
}

// nodeProperty reads a property of the node, by its current name or, for older
// hosts, by its former name.
func nodeProperty(path ...string) string {
	for _, root := range [][]string{{"xds", "node"}, {"node"}} {
		if value, err := proxywasm.GetProperty(append(root, path...)); err == nil && len(value) > 0 {
			return string(value)
		}
	}
	return ""
}

// domain returns the domain of the cluster's services, such as cluster.local, or "" if it is not
// known. Istio's nodes have IDs TYPE~IP~POD.NAMESPACE~NAMESPACE.svc.DOMAIN.
func (i identity) domain() string {
	_, suffix, _ := strings.Cut(i.Node[strings.LastIndexByte(i.Node, '~')+1:], ".svc.")
	if strings.Count(i.Node, "~") != 3 {
		return ""
	}
	return suffix
}

// workload returns the workload that selectors are compared with in a plugin context
// with the given settings.
func (i identity) workload(settings *source) selection.Workload {
	w := selection.Workload{Service: i.Service, Namespace: i.Namespace, Gateway: i.Gateway}
	if settings.Gateway != "" {
		w.Gateway = settings.Gateway
	}
	w.Waypoint = i.Waypoint != "" && w.Gateway == ""
	if w.Gateway != "" || w.Waypoint {
		w.Service = ""
	}
	if w.Namespace == "" {
		w.Namespace = settings.Namespace
	}
	return w
}

// query returns the query string that selects a workload's policies.
func (i identity) query(w selection.Workload) string {
	kind, name := "service=", w.Service
	switch {
	case w.Waypoint:
		kind, name = "waypoint=", i.Waypoint
	case w.Gateway != "":
		kind, name = "gateway=", w.Gateway
	}
	if name == schema.Any {
		name = ""
	}
	return kind + escape(name) + "&namespace=" + escape(w.Namespace)
}

// escape escapes a value for a query string (RFC 3986, 2.3). Package net/url would
// make the module larger, which slows the start of each Envoy.
func escape(text string) string {
	var escaped strings.Builder
	for _, b := range []byte(text) {
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9', b == '-', b == '.', b == '_', b == '~':
			escaped.WriteByte(b)
		default:
			escaped.WriteByte('%')
			writeHex(&escaped, b)
		}
	}
	return escaped.String()
}

// headerValue replaces characters that are not allowed in a header, and spaces. The
// text comes from Envoy's bootstrap, which must not be able to make the request invalid.
func headerValue(text string) string { return printable(text, '!') }

// maxHeaderText is less than what the daemon accepts in a header.
const maxHeaderText = 200

// headerText is headerValue for a sentence, which it shortens.
func headerText(text string) string { return printable(text[:min(len(text), maxHeaderText)], ' ') }

// printable replaces the bytes that are not between first and "~".
func printable(text string, first byte) string {
	allowed := []byte(text)
	for i, b := range allowed {
		if b < first || b >= 0x7f {
			allowed[i] = '_'
		}
	}
	return string(allowed)
}
