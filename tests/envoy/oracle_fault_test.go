package envoy

import (
	"strings"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/schema"
)

// oracleFault is one fault, from which the configuration of both filters is generated.
type oracleFault struct {
	// status is the HTTP status of an abort, grpc its gRPC status. At most one is set; 0 means none.
	status, grpc int
	// body is the body of our abort; the native filter has a fixed text.
	body  string
	delay time.Duration
	// ppm is the number of requests in a million that are faulted.
	ppm int
	// methods, path (exact) and headers restrict the fault to some of the requests
	// below the case's prefix.
	methods []string
	path    string
	headers []oracleHeader
	// twoRules puts our delay and abort into separate rules, with a random draw each.
	twoRules bool
}

func oracleAbort(status int) oracleFault     { return oracleFault{status: status, ppm: 1_000_000} }
func oracleAbortGRPC(status int) oracleFault { return oracleFault{grpc: status, ppm: 1_000_000} }
func oracleDelay(delay time.Duration) oracleFault {
	return oracleFault{delay: delay, ppm: 1_000_000}
}

// thenAbort adds an abort by HTTP status.
func (f oracleFault) thenAbort(status int) oracleFault { f.status = status; return f }

// share sets the number of requests in a million that are faulted.
func (f oracleFault) share(ppm int) oracleFault { f.ppm = ppm; return f }

// when restricts the fault to requests with such headers.
func (f oracleFault) when(headers ...oracleHeader) oracleFault { f.headers = headers; return f }

// aborts reports whether the fault has an abort.
func (f oracleFault) aborts() bool { return f.status != 0 || f.grpc != 0 }

// oracleHeader is a condition on a header, as both filters can express it.
type oracleHeader struct {
	name string
	// how is exact, prefix, regex, present or absent.
	how, value string
}

// native returns the configuration of Envoy's own filter.
func (f oracleFault) native() map[string]any {
	fault := envoytest.NativeFault{
		AbortStatus: f.status, AbortGRPC: f.grpc, AbortPPM: f.ppm, Delay: f.delay, DelayPPM: f.ppm,
	}
	for _, header := range f.headers {
		matcher := map[string]any{"name": header.name}
		switch header.how {
		case "exact", "prefix":
			matcher["string_match"] = map[string]any{header.how: header.value}
		case "regex":
			matcher["string_match"] = map[string]any{"safe_regex": map[string]any{"regex": header.value}}
		default:
			matcher["present_match"] = header.how == "present"
		}
		fault.Headers = append(fault.Headers, matcher)
	}
	if len(f.methods) > 0 {
		fault.Headers = append(fault.Headers, map[string]any{
			"name": ":method", "string_match": map[string]any{"safe_regex": map[string]any{"regex": strings.Join(f.methods, "|")}},
		})
	}
	if f.path != "" {
		fault.Headers = append(fault.Headers, map[string]any{"name": ":path", "string_match": map[string]any{"exact": f.path}})
	}
	return fault.Config()
}

// policy returns the policy for our filter, for all paths that begin with prefix.
func (f oracleFault) policy(name, prefix string) *schema.Policy {
	match := &schema.Match{Methods: f.methods, Path: &schema.StringMatch{Prefix: &prefix}}
	if f.path != "" {
		match.Path = &schema.StringMatch{Exact: &f.path}
	}
	for _, header := range f.headers {
		condition := schema.HeaderMatch{Name: header.name}
		present := header.how == "present"
		switch header.how {
		case "exact":
			condition.Exact = &header.value
		case "prefix":
			condition.Prefix = &header.value
		case "regex":
			condition.Regex = &header.value
		default:
			condition.Present = &present
		}
		match.Headers = append(match.Headers, condition)
	}
	rule := schema.Rule{Match: match, Fault: schema.Fault{Percentage: schema.Percentage(f.ppm), DelayMS: f.delay.Milliseconds()}}
	switch {
	case f.status != 0:
		rule.Fault.Abort = &schema.Abort{Status: f.status, Body: f.body}
	case f.grpc != 0:
		rule.Fault.Abort = &schema.Abort{GRPCStatus: &f.grpc, Body: f.body}
	}
	policy := &schema.Policy{Metadata: schema.Metadata{Name: name}}
	policy.Spec.Selector.Service, policy.Spec.Selector.Namespace = "frontend", "demo"
	policy.Spec.Rules = []schema.Rule{rule}
	if f.twoRules {
		abort := rule
		rule.Fault.Abort, abort.Fault.DelayMS = nil, 0
		policy.Spec.Rules = []schema.Rule{rule, abort}
	}
	return policy
}
