package program

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// policy returns a policy with the JSON of its spec.
func policy(t testing.TB, name, spec string) *schema.Policy {
	t.Helper()
	made, err := schema.Parse(fmt.Appendf(nil, `{"metadata": {"name": %q}, "spec": %s}`, name, spec))
	if err != nil {
		t.Fatalf("policy %s: %v\n%s", name, err, spec)
	}
	return made
}

// rules returns a policy that has only rules.
func rules(t testing.TB, name string, each ...string) *schema.Policy {
	t.Helper()
	return policy(t, name, `{"rules": [`+strings.Join(each, ",")+`]}`)
}

// encode compiles and encodes policies.
func encode(t testing.TB, policies ...*schema.Policy) []byte {
	t.Helper()
	var compiler Compiler
	var compiled []*Compiled
	for _, p := range policies {
		one, err := compiler.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, one)
	}
	encoded, err := Encode(compiled)
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

// roundTrip compiles, encodes and reads policies.
func roundTrip(t testing.TB, policies ...*schema.Policy) *Program {
	t.Helper()
	read, err := Read(encode(t, policies...), selection.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// TestCompileErrors checks that the error for a policy that filters cannot apply names
// the field and the reason.
func TestCompileErrors(t *testing.T) {
	match := func(m string) string { return `{"match": ` + m + `, "fault": {"delay_ms": 9}}` }
	for _, test := range []struct{ rule, reason string }{
		{match(`{"path": {"regex": "("}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a)(b"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a\\"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "(?=a)"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "(a)\\1"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a{1001}"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {}}`), "rules[1].match.path: exactly one of"},
		{match(`{"path": {"suffix": "/new"}}`), "rules[1].match.path: exactly one of"},
		{match(`{"path": {"exact": "/a", "prefix": "/a"}}`), "rules[1].match.path: exactly one of"},
		{match(`{"headers": [{"name": "a", "present": true}, {"name": "b"}]}`), "rules[1].match.headers[1]: exactly one of"},
		{match(`{"headers": [{"name": "a", "exact": "1", "present": true}]}`), "rules[1].match.headers[0]: exactly one of"},
		{match(`{"headers": [{"name": "a", "regex": "["}]}`), "rules[1].match.headers[0]: regex"},
		{match(`{"headers": [{"name": "", "exact": "1"}]}`), "rules[1].match.headers[0]: name"},
		{match(`{"headers": [{"name": "a b", "exact": "1"}]}`), "rules[1].match.headers[0]: name"},
		{match(`{"to": {"service": "cart"}}`), "rules[1].match.to: the policy is not outbound"},
		{`{"fault": {}}`, "rules[1].fault: neither"},
		{`{"fault": {"percentage": 0}}`, "rules[1].fault: neither"},
		{`{"fault": {"throttle": 5}}`, "rules[1].fault: neither"},
		{`{"fault": {"delay_ms": -1}}`, "rules[1].fault.delay_ms: -1"},
		{`{"fault": {"abort": {}}}`, "rules[1].fault.abort.status: 0"},
		{`{"fault": {"abort": {"status": 199}}}`, "rules[1].fault.abort.status: 199"},
		{`{"fault": {"abort": {"status": 600}}}`, "rules[1].fault.abort.status: 600"},
		{`{"fault": {"abort": {"status": -503}}}`, "rules[1].fault.abort.status: -503"},
		{`{"fault": {"delay_ms": 1, "abort": {"status": 99}}}`, "rules[1].fault.abort.status: 99"},
		{`{"fault": {"abort": {"grpc_status": -1}}}`, "rules[1].fault.abort.grpc_status: -1"},
		{`{"fault": {"abort": {"grpc_status": 17}}}`, "rules[1].fault.abort.grpc_status: 17"},
		{`{"fault": {"abort": {"status": 503, "grpc_status": 14}}}`, "rules[1].fault.abort: status and grpc_status are both set"},
		{`{"fault": {"abort": {"status": 503, "headers": {":status": "200"}}}}`, `rules[1].fault.abort.headers: ":status"`},
		{`{"fault": {"abort": {"status": 503, "headers": {"a": "b\r\nc: d"}}}}`, `rules[1].fault.abort.headers["a"]`},
		{`{"fault": {"abort": {"status": 503, "headers": {"": "b"}}}}`, `rules[1].fault.abort.headers: ""`},
	} {
		_, err := new(Compiler).Compile(rules(t, "bad", `{"fault": {"delay_ms": 7}}`, test.rule))
		if err == nil || !strings.HasPrefix(err.Error(), "spec.") || !strings.Contains(err.Error(), test.reason) {
			t.Errorf("%s: the error is %v, want one with %q", test.rule, err, test.reason)
		}
	}
	for spec, want := range map[string]string{
		`{"direction": "both", "rules": [{"fault": {"delay_ms": 1}}]}`:                          `spec.direction: "both"`,
		`{"direction": "outbound", "rules": [{"match": {"to": {}}, "fault": {"delay_ms": 1}}]}`: "spec.rules[0].match.to: neither",
	} {
		if _, err := new(Compiler).Compile(policy(t, "bad", spec)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: the error is %v, want %q", spec, err, want)
		}
	}
	for _, share := range []schema.Percentage{-1, schema.All + 1} {
		bad := &schema.Policy{Spec: schema.Spec{Rules: []schema.Rule{{Fault: schema.Fault{Percentage: share, DelayMS: 1}}}}}
		if _, err := new(Compiler).Compile(bad); err == nil {
			t.Errorf("a share of %d compiles", share)
		}
	}
}

// TestUnknownFieldsAreIgnored checks that a policy of a newer schema compiles.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	program := roundTrip(t, policy(t, "a", `{"owner": "x", "rules": [{"note": 1, "fault": {"delay_ms": 5, "jitter": 3}}]}`))
	if len(program.Rules) != 1 || program.Rules[0].Delay != 5*time.Millisecond {
		t.Errorf("the rules are %+v", program.Rules)
	}
}

// TestAbort checks all fields of an abort.
func TestAbort(t *testing.T) {
	program := roundTrip(t, rules(t, "a",
		`{"fault": {"abort": {"status": 429, "body": "slow\n", "headers": {"Retry-After": "5", "B": "2\t2", "a": ""}}}}`,
		`{"fault": {"abort": {"grpc_status": 0}}}`))
	http, grpc := program.Rules[0].Abort, program.Rules[1].Abort
	if http.Status != 429 || http.GRPCStatus != NoGRPC || string(http.Body) != "slow\n" ||
		!slices.Equal(http.Headers, [][2]string{{"a", ""}, {"b", "2\t2"}, {"retry-after", "5"}}) {
		t.Errorf("the abort by HTTP is %+v", http)
	}
	if grpc.Status != 200 || grpc.GRPCStatus != 0 || grpc.Body != nil || grpc.Headers != nil {
		t.Errorf("the abort by gRPC is %+v", grpc)
	}
}

// TestDelaysDoNotOverflow checks that the longest delays are as long as Go can express.
func TestDelaysDoNotOverflow(t *testing.T) {
	for ms, want := range map[int64]time.Duration{
		1: time.Millisecond, 3_600_000: time.Hour,
		math.MaxInt64: math.MaxInt64, math.MaxInt64 / 1_000_000: math.MaxInt64, math.MaxInt64/1_000_000 + 1: math.MaxInt64,
	} {
		program := roundTrip(t, rules(t, "slow", fmt.Sprintf(`{"fault": {"delay_ms": %d}}`, ms)))
		if got := program.Rules[0].Delay; got != want {
			t.Errorf("%d ms: %v, want %v", ms, got, want)
		}
	}
}

// TestCompiledIsImmutable checks that a compiled policy shares no mutable data with
// the policy.
func TestCompiledIsImmutable(t *testing.T) {
	p := policy(t, "a", `{"expires_at": "2027-01-31T12:00:00Z", "rules": [{"match": {"methods": ["GET"]}, "fault": {"abort": {"status": 503}}}]}`)
	compiled, err := new(Compiler).Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	*p.Spec.ExpiresAt = time.Time{}
	p.Spec.Rules[0].Match.Methods[0] = "PUT"
	p.Spec.Rules[0].Fault.Abort.Status = 1
	encoded, err := Encode([]*Compiled{compiled})
	if err != nil {
		t.Fatal(err)
	}
	program, err := Read(encoded, selection.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	if rule := program.Rules[0]; rule.Methods[0] != "GET" || rule.Abort.Status != 503 || program.Policies[0].ExpiresAt.Year() != 2027 {
		t.Errorf("after a change to its policy: %+v", rule)
	}
}
