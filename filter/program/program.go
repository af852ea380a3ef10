// Package program is the compiled form of the policies of one workload. The daemon
// compiles and encodes it (Compiler, Encode); the filter reads it (Read) and package
// fault executes it. So all that depends only on the policies is done once, in the
// daemon, and the filter's module contains no JSON and no parser of expressions.
//
// # Encoding
//
// An encoded program begins with the bytes "hfi" and the version, 1. Sections follow:
// a kind (one byte), the length of the content, and the content. A reader skips
// sections whose kind it does not know. Numbers are unsigned varints as in
// encoding/binary, and strings are a length and the bytes.
//
//	1 expressions  count, then each with its length, as of regex.Regex.AppendBinary
//	2 headers      count, then the names, in lower case, ascending, none empty
//	3 policies     count, then each with its length, by ascending name
//	4 index        see Index; missing if there are few rules
//	5 outbound     the sections 1 to 4 of the policies for outbound requests; missing if there are none
//
// A policy is: name; service, namespace and gateway of its selector; the features that a reader
// must support to apply it; the number of its rules; flags (1: dry run, 2: expires);
// with the flag, the time in seconds since 1970 (zigzag) and nanoseconds; then the rules,
// each with its length. A reader that lacks a feature skips the policy and reports it,
// and applies the others.
//
// A rule is: share; delay in milliseconds; flags (1: abort, 2: gRPC, 4: path); with an
// abort its status, its body and the number of its headers with their names and
// values; the number of methods and the methods; with the flag the condition on the
// path; the number of conditions on headers, each an index in the section headers and
// a condition. A condition is a Comparison (one byte), a value, and for Regex
// an index in the section expressions.
package program

import (
	"strings"
	"time"

	"github.com/boifi/hfi/filter/regex"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// MediaType is the type of an encoded program in HTTP.
const MediaType = "application/vnd.hfi.program.v1"

const (
	magic   = "hfi"
	version = 1
)

// The names of the headers that stand for the destination of an outbound request, or for the
// service in a waypoint. No header of a policy has such a name. A newer daemon may write others
// that begin with a colon, which policies with a feature that this package lacks compare: such
// a header is never present.
const (
	// ToHost is the host that the request goes to.
	ToHost = ":to-host"
	// ToService and ToNamespace are those of the service.
	ToService   = ":to-service"
	ToNamespace = ":to-namespace"
	// Service and ServiceNamespace are those of the service whose requests a waypoint
	// receives.
	Service          = ":service"
	ServiceNamespace = ":service-namespace"
)

// The limits bound the memory that a filter needs for a program. Encode and Read return
// an error for a program that exceeds them: both of its parts count.
const (
	// MaxSize is the largest encoded program, in bytes.
	MaxSize = 4 << 20
	// MaxRules is the most rules of a program.
	MaxRules = 50_000
	// MaxExpressions is the most different expressions, and MaxExpressionsSize the most
	// bytes that all take together in the encoding. In memory one takes up to 600 bytes
	// and 20 times its encoding.
	MaxExpressions     = 10_000
	MaxExpressionsSize = 1 << 20
	// MaxItems is the most policies, rules, expressions, methods, conditions and headers
	// in all.
	MaxItems = 250_000
)

// features are those that this package supports, as bits. There are none yet.
const features = 0

// Program is a set of policies that can be executed: those for inbound requests, and with
// Outbound those for outbound ones. It is immutable. The zero value has no policies.
type Program struct {
	// Policies are sorted by name. Those in Others and Unsupported are among them, with
	// rules that never apply.
	Policies []Policy
	// Rules are in the order of the policies and of the rules in each policy. Earlier
	// rules have precedence.
	Rules []Rule
	// Headers are the names of the headers that rules compare, in lower case, sorted.
	// ToHost, ToService, ToNamespace, Service and ServiceNamespace may be among them.
	Headers []string
	// Index finds rules. It is nil if there are few.
	Index *Index
	// Outbound has the policies for outbound requests. It is nil if there are none, and
	// its own Outbound always is.
	Outbound *Program
	// Others are the names of the policies that do not select the workload, and
	// Unsupported of those that need a newer filter. Those of Outbound are not among them.
	Others, Unsupported []string
	// idle reports that no rule can apply.
	idle bool
}

// Idle reports that no rule can apply to any request.
func (p *Program) Idle() bool { return p == nil || len(p.Rules) == 0 || p.idle }

// InForce returns the number of policies that are applied, in both directions.
func (p *Program) InForce() int {
	if p == nil {
		return 0
	}
	return len(p.Policies) - len(p.Others) - len(p.Unsupported) + p.Outbound.InForce()
}

// Policy is a policy of a program, without its rules.
type Policy struct {
	Name     string
	Selector selection.Key
	// DryRun reports that the faults are counted and not injected.
	DryRun bool
	// Expires reports that the policy does nothing from ExpiresAt on.
	Expires   bool
	ExpiresAt time.Time
}

// Rule is a rule of a policy.
type Rule struct {
	// Policy is the index of its policy in Program.Policies.
	Policy int
	// Share is the share of the matching requests that get the fault. 0 means that the
	// rule never applies.
	Share schema.Percentage
	// Delay is 0 if there is none.
	Delay time.Duration
	// Abort is nil if there is none.
	Abort *Abort
	// Path is the condition on the path, without its query.
	Path Text
	// Methods are those that match. Empty means all.
	Methods []string
	Headers []Header
}

// Header is a condition on a header, whose name is Program.Headers[Slot].
type Header struct {
	Slot int
	Text Text
}

// Abort is a response. It must not be changed. It keeps nothing else of the program.
type Abort struct {
	// Status is the HTTP status, 200 to 599. With a GRPCStatus it is 200, as gRPC
	// requires.
	Status int
	// GRPCStatus is 0 to 16, or NoGRPC.
	GRPCStatus int
	// Body is nil if the response has none.
	Body []byte
	// Headers are pairs of a name in lower case and a value, sorted by name.
	Headers [][2]string
}

// NoGRPC is the GRPCStatus of an abort with an HTTP status.
const NoGRPC = -1

// Comparison is the kind of a condition on a text.
type Comparison uint8

// The comparisons. Their numbers are part of the encoding.
const (
	// Always holds for every text. A header must be present.
	Always Comparison = iota
	// Exact holds for Text.Value.
	Exact
	// Prefix holds for each text that begins with Text.Value.
	Prefix
	// Regex holds for each text that Text.Regex matches. These begin with Text.Value.
	Regex
	// Absent holds for no text: a header must not be present.
	Absent
)

// Text is a condition on a path or on the value of a header.
type Text struct {
	How   Comparison
	Value string
	Regex *regex.Regex
}

// Holds reports whether the condition holds for a text.
func (t *Text) Holds(text string) bool {
	switch t.How {
	case Always:
		return true
	case Exact:
		return text == t.Value
	case Prefix:
		return strings.HasPrefix(text, t.Value)
	case Regex:
		// The prefix rejects most texts without running the expression.
		return strings.HasPrefix(text, t.Value) && t.Regex.Match(text)
	}
	return false
}

// Index finds the rules that may match a request, without trying the others. Every rule
// is in exactly one of its groups. Encoded it is the number of rules and the rules of
// Linear; the groups of Exact; the groups of Prefixes; and the number of Headers, each
// with its slot and its groups. Groups are their number, and for each the key, the number of
// rules and the rules.
type Index struct {
	// Linear has the rules that are always tried, as indices in Program.Rules.
	Linear []uint32
	// Exact has rules by the whole path, sorted by it.
	Exact []Group
	// Prefixes has rules by a prefix of the path, sorted by it.
	Prefixes []Group
	// Parents has for each prefix the index in Prefixes of the longest other prefix that
	// it begins with, or -1.
	Parents []int32
	// Headers has rules by the value of a header.
	Headers []HeaderGroups
}

// Group has rules by a key.
type Group struct {
	Key   string
	Rules []uint32
}

// HeaderGroups has the rules that compare one header exactly, sorted by the value.
type HeaderGroups struct {
	Slot   int
	Groups []Group
}

// Find returns the rules of a key in groups sorted by key.
func Find(groups []Group, key string) []uint32 {
	if at := LastUpTo(groups, key); at >= 0 && groups[at].Key == key {
		return groups[at].Rules
	}
	return nil
}

// LastUpTo returns the index of the last group whose key is not greater than a key, or
// -1. All prefixes that a path begins with are among the one found for the path and
// its ancestors.
func LastUpTo(groups []Group, key string) int {
	low, high := 0, len(groups)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if groups[middle].Key <= key {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low - 1
}

// connectPrefixes sets Parents.
func (x *Index) connectPrefixes() {
	x.Parents = make([]int32, len(x.Prefixes))
	for i := range x.Prefixes {
		// All prefixes of this one are before it, and all prefixes between one of
		// them and this one begin with it too. So they are the one directly before
		// this one, or its ancestors.
		parent := int32(i - 1)
		for parent >= 0 && !strings.HasPrefix(x.Prefixes[i].Key, x.Prefixes[parent].Key) {
			parent = x.Parents[parent]
		}
		x.Parents[i] = parent
	}
}
