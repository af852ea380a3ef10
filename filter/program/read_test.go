package program

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// everything has each field of a policy, and enough rules for an index.
func everything(t testing.TB) []*schema.Policy {
	all := []*schema.Policy{
		policy(t, "all-fields", `{"selector": {"service": "frontend", "namespace": "demo"}, "dry_run": true, "expires_at": "2027-01-31T12:00:00.5Z", "rules": [{
			"match": {"methods": ["GET", "PUT"], "path": {"regex": "/item/[0-9]+"}, "headers": [
				{"name": "x-user", "exact": "ann"}, {"name": "x-env", "prefix": "dev"}, {"name": "x-id", "regex": "a|b"},
				{"name": "x-on", "present": true}, {"name": "x-off", "present": false}]},
			"fault": {"percentage": 12.5, "delay_ms": 250, "abort": {"status": 503, "body": "b", "headers": {"retry-after": "5"}}}}]}`),
		policy(t, "before-1970", `{"expires_at": "0000-01-01T00:00:00Z", "rules": [{"fault": {"abort": {"grpc_status": 14}}}]}`),
		policy(t, "far-away", `{"expires_at": "9999-12-31T23:59:59.999999999Z", "rules": [{"fault": {"delay_ms": 1}}]}`),
	}
	for i := range 20 {
		all = append(all,
			rules(t, fmt.Sprintf("exact-%02d", i), fmt.Sprintf(`{"match": {"path": {"exact": "/e/%d"}}, "fault": {"delay_ms": 1}}`, i)),
			rules(t, fmt.Sprintf("prefix-%02d", i), fmt.Sprintf(`{"match": {"path": {"prefix": "/p/%s"}}, "fault": {"delay_ms": 1}}`, strings.Repeat("x", i))),
			rules(t, fmt.Sprintf("header-%02d", i), fmt.Sprintf(`{"match": {"headers": [{"name": "x-user", "exact": "%d"}]}, "fault": {"delay_ms": 1}}`, i)),
			sends(t, fmt.Sprintf("to-%02d", i), fmt.Sprintf(`{"match": {"to": {"service": "s%d", "namespace": "demo"}, "path": {"regex": "/to/[0-9]+"}}, "fault": {"delay_ms": 1}}`, i)))
	}
	return append(all, policy(t, "to-others", `{"selector": {"service": "cart"}, "direction": "outbound", "rules": [{"match": {"to": {"host": "api.example.com"}}, "fault": {"delay_ms": 1}}]}`))
}

// sends returns an outbound policy that has only rules.
func sends(t testing.TB, name string, each ...string) *schema.Policy {
	t.Helper()
	return policy(t, name, `{"direction": "outbound", "rules": [`+strings.Join(each, ",")+`]}`)
}

var frontend = selection.Workload{Service: "frontend", Namespace: "demo"}

// TestRoundTrip checks that a filter reads all that the daemon has written.
func TestRoundTrip(t *testing.T) {
	program, err := Read(encode(t, everything(t)...), frontend)
	if err != nil {
		t.Fatal(err)
	}
	policy, rule := program.Policies[0], program.Rules[0]
	if want := (Policy{"all-fields", selection.Key{Service: "frontend", Namespace: "demo"}, true, true, policy.ExpiresAt}); policy != want {
		t.Errorf("the policy is %+v, want %+v", policy, want)
	}
	if want := time.Date(2027, 1, 31, 12, 0, 0, 500_000_000, time.UTC); !policy.ExpiresAt.Equal(want) {
		t.Errorf("it expires at %v, want %v", policy.ExpiresAt, want)
	}
	if want := time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC); !program.Policies[1].ExpiresAt.Equal(want) {
		t.Errorf("the second expires at %v, want %v", program.Policies[1].ExpiresAt, want)
	}
	for i, text := range append(headerTexts(rule.Headers), rule.Path) {
		if (text.How == Regex) != (text.Regex != nil) {
			t.Errorf("condition %d is %+v", i, text)
		}
	}
	if !rule.Path.Holds("/item/42") || rule.Path.Holds("/item/x") {
		t.Error("the path is not compared as written")
	}
	conditions := map[string]Comparison{}
	for _, header := range rule.Headers {
		conditions[program.Headers[header.Slot]] = header.Text.How
	}
	if want := map[string]Comparison{"x-user": Exact, "x-env": Prefix, "x-id": Regex, "x-on": Always, "x-off": Absent}; !reflect.DeepEqual(conditions, want) {
		t.Errorf("the conditions are %v, want %v", conditions, want)
	}
	if rule.Share != 125_000 || rule.Delay != 250*time.Millisecond || !slices.Equal(rule.Methods, []string{"GET", "PUT"}) {
		t.Errorf("the rule is %+v", rule)
	}
	if all := len(program.Policies) + 20; program.Idle() || program.InForce() != all || program.Index == nil {
		t.Errorf("idle: %v, in force: %d of %d, index: %v", program.Idle(), program.InForce(), all, program.Index)
	}
	countRules(t, program)
}

// TestOutbound checks that policies for outbound requests are in a part of their own, whose rules
// have the destinations as conditions.
func TestOutbound(t *testing.T) {
	inbound := rules(t, "in", `{"fault": {"delay_ms": 1}}`)
	if program := roundTrip(t, inbound); program.Outbound != nil {
		t.Errorf("without such a policy there is %+v", program.Outbound)
	}
	if !bytes.HasPrefix(encode(t, inbound, sends(t, "out", `{"fault": {"delay_ms": 1}}`)), encode(t, inbound)) {
		t.Error("an older filter reads something else")
	}
	program, err := Read(encode(t, everything(t)...), frontend)
	if err != nil {
		t.Fatal(err)
	}
	out := program.Outbound
	if out == nil || out.Outbound != nil || len(out.Policies) != 21 || !slices.Equal(out.Headers, []string{ToHost, ToNamespace, ToService}) || out.Index == nil {
		t.Fatalf("the outbound part is %+v", out)
	}
	if !slices.Equal(out.Others, []string{"to-others"}) || len(program.Others) > 0 {
		t.Errorf("others: %v and %v", program.Others, out.Others)
	}
	countRules(t, out)
	for _, p := range program.Policies {
		if strings.HasPrefix(p.Name, "to-") {
			t.Errorf("%s is among the policies for inbound requests", p.Name)
		}
	}
	for _, header := range out.Rules[0].Headers {
		if want := map[string]string{ToService: "s0", ToNamespace: "demo"}[out.Headers[header.Slot]]; header.Text.How != Exact || header.Text.Value != want {
			t.Errorf("the condition on %s is %+v", out.Headers[header.Slot], header.Text)
		}
	}
	// The rules are found by the service, so that no request tries those for others.
	byService := 0
	for _, header := range out.Index.Headers {
		if out.Headers[header.Slot] == ToService {
			byService = len(header.Groups)
		}
	}
	if byService != 20 || len(out.Index.Linear) > 1 {
		t.Errorf("the index has %d services, and %d rules that are always tried", byService, len(out.Index.Linear))
	}
	only := roundTrip(t, sends(t, "out", `{"fault": {"delay_ms": 1}}`))
	if !only.Idle() || only.InForce() != 1 || only.Outbound.Idle() {
		t.Errorf("with an outbound policy alone, the program is %+v", only)
	}
}

// TestOutboundIsNotNested checks that the outbound part cannot have one of its own.
func TestOutboundIsNotNested(t *testing.T) {
	out := encode(t, sends(t, "out", `{"fault": {"delay_ms": 1}}`))
	part := out[4:] // no policies, then the outbound part
	nested := appendBytes(append(slices.Clone(encode(t)), sectionOutbound), part)
	program, err := Read(nested, frontend)
	if err != nil || program.Outbound == nil || program.Outbound.Outbound != nil || program.InForce() != 0 {
		t.Errorf("the program is %+v, error %v", program, err)
	}
}

// TestBothPartsCount checks that the limits hold for both directions together.
func TestBothPartsCount(t *testing.T) {
	half := strings.TrimSuffix(strings.Repeat(`{"fault": {"delay_ms": 1}},`, MaxRules/2+1), ",")
	in, out := encode(t, rules(t, "in", half)), encode(t, sends(t, "out", half))
	joined := appendBytes(append(slices.Clone(in), sectionOutbound), encode(t, rules(t, "out", half))[4:])
	for _, one := range [][]byte{in, out} {
		if _, err := Read(one, frontend); err != nil {
			t.Error(err)
		}
	}
	if _, err := Read(joined, frontend); err == nil {
		t.Error("a filter accepts more rules than MaxRules in both parts together")
	}
	var compiler Compiler
	var both []*Compiled
	for _, p := range []*schema.Policy{rules(t, "in", half), sends(t, "out", half)} {
		one, err := compiler.Compile(p)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, one)
	}
	if _, err := Encode(both); err == nil || !strings.Contains(err.Error(), "50002 rules") {
		t.Errorf("the error is %v", err)
	}
}

func headerTexts(headers []Header) (texts []Text) {
	for _, header := range headers {
		texts = append(texts, header.Text)
	}
	return texts
}

// countRules fails unless each rule is in the index exactly once.
func countRules(t *testing.T, program *Program) {
	t.Helper()
	places := make([]int, len(program.Rules))
	groups := append(slices.Concat(program.Index.Exact, program.Index.Prefixes), Group{Rules: program.Index.Linear})
	for _, header := range program.Index.Headers {
		groups = append(groups, header.Groups...)
	}
	for _, group := range groups {
		for _, rule := range group.Rules {
			places[rule]++
		}
	}
	for rule, times := range places {
		if times != 1 {
			t.Errorf("rule %d of %d is in the index %d times", rule, len(places), times)
		}
	}
}

// TestParents checks that the parent of a prefix is the longest other prefix that it
// begins with.
func TestParents(t *testing.T) {
	for range 200 {
		prefixes := map[string][]uint32{}
		for range 40 {
			prefix := "/"
			for range rand.IntN(8) {
				prefix += string("ab"[rand.IntN(2)])
			}
			prefixes[prefix] = nil
		}
		x := &Index{Prefixes: groups(prefixes)}
		x.connectPrefixes()
		for i, group := range x.Prefixes {
			want, got := "", ""
			for other := range prefixes {
				if other != group.Key && strings.HasPrefix(group.Key, other) && len(other) > len(want) {
					want = other
				}
			}
			if x.Parents[i] >= 0 {
				got = x.Prefixes[x.Parents[i]].Key
			}
			if got != want {
				t.Fatalf("the parent of %s is %q, want %q", group.Key, got, want)
			}
		}
	}
}

// TestIdle checks that a program is idle if no rule can apply.
func TestIdle(t *testing.T) {
	never, delay := `{"fault": {"percentage": 0, "delay_ms": 5}}`, `{"fault": {"delay_ms": 5}}`
	for _, test := range []struct {
		policies []*schema.Policy
		want     bool
	}{
		{nil, true},
		{[]*schema.Policy{rules(t, "a", never), rules(t, "b", never, never)}, true},
		{[]*schema.Policy{rules(t, "a")}, true},
		{[]*schema.Policy{policy(t, "a", `{"selector": {"service": "other"}, "rules": [`+delay+`]}`)}, true},
		{[]*schema.Policy{rules(t, "a", never, delay)}, false},
		{[]*schema.Policy{rules(t, "a", `{"fault": {"percentage": 0.0001, "delay_ms": 5}}`)}, false},
		{[]*schema.Policy{policy(t, "a", `{"dry_run": true, "rules": [`+delay+`]}`)}, false},
	} {
		program := roundTrip(t, test.policies...)
		if got := program.Idle(); got != test.want {
			t.Errorf("idle with %+v: %v, want %v", program.Policies, got, test.want)
		}
		if len(program.Policies) != len(test.policies) {
			t.Errorf("it has %d policies of %d", len(program.Policies), len(test.policies))
		}
	}
	if !new(Program).Idle() {
		t.Error("the zero Program is not idle")
	}
}

// TestPoliciesForOthersNeverApply checks that the reader selects once more.
func TestPoliciesForOthersNeverApply(t *testing.T) {
	for selector, mine := range map[string]bool{
		`{"service":"productcatalog"}`:              false,
		`{"service":"frontend","namespace":"prod"}`: false,
		`{"service":"Frontend"}`:                    false,
		`{"service":"frontend","namespace":"demo"}`: true,
		`{"service":"*","namespace":"demo"}`:        true,
		`{}`:                                        true,
	} {
		program, err := Read(encode(t, policy(t, "p", `{"selector": `+selector+`, "rules": [{"fault": {"delay_ms": 5}}]}`)), frontend)
		if err != nil {
			t.Fatal(err)
		}
		if program.Idle() == mine || (len(program.Others) == 0) != mine || (program.InForce() == 1) != mine {
			t.Errorf("%s: %+v", selector, program)
		}
	}
}

// TestGatewaysAreApartFromWorkloads checks that the reader selects once more in a gateway too.
func TestGatewaysAreApartFromWorkloads(t *testing.T) {
	ingress := selection.Workload{Namespace: "mesh", Gateway: "ingress"}
	for selector, applies := range map[string]selection.Workload{
		`{"gateway":"ingress","namespace":"mesh"}`: ingress,
		`{"gateway":"*"}`:                          ingress,
		`{"gateway":"egress"}`:                     {},
		`{"service":"frontend"}`:                   frontend,
		`{}`:                                       frontend,
		`{"gateway":"frontend"}`:                   {},
	} {
		encoded := encode(t, policy(t, "p", `{"selector": `+selector+`, "rules": [{"fault": {"delay_ms": 5}}]}`))
		for _, workload := range []selection.Workload{ingress, frontend} {
			program, err := Read(encoded, workload)
			if err != nil {
				t.Fatal(err)
			}
			if want := workload == applies; program.Idle() == want || (len(program.Others) == 0) != want {
				t.Errorf("%s for %v: %+v", selector, workload, program)
			}
		}
	}
}

// TestWaypointsHaveTheSelectorAsACondition checks that in a waypoint a policy applies to the requests
// of its service, and is found by that.
func TestWaypointsHaveTheSelectorAsACondition(t *testing.T) {
	var all []*schema.Policy
	for i := range 20 {
		all = append(all, policy(t, fmt.Sprintf("p%02d", i), fmt.Sprintf(`{"selector": {"service": "s%d", "namespace": "demo"}, "rules": [{"match": {"headers": [{"name": "x", "present": true}]}, "fault": {"delay_ms": 5}}]}`, i)))
	}
	all = append(all, policy(t, "q-any-service", `{"selector": {"namespace": "demo"}, "rules": [{"fault": {"delay_ms": 5}}]}`), policy(t, "r-any", `{"rules": [{"fault": {"delay_ms": 5}}]}`))
	compiler, compiled := new(Compiler), []*Compiled{}
	for _, each := range all {
		one, err := compiler.Compile(each)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, one)
	}
	encoded, err := EncodeForWaypoints(compiled)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Read(encoded, selection.Workload{Namespace: "demo", Waypoint: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.InForce() != 22 || !slices.Equal(p.Headers, []string{Service, ServiceNamespace, "x"}) || len(p.Index.Headers) == 0 || len(p.Index.Linear) > 2 {
		t.Errorf("the program is %+v, its index %+v", p, p.Index)
	}
	for i := range p.Rules {
		conditions := map[string]string{}
		for _, header := range p.Rules[i].Headers {
			conditions[p.Headers[header.Slot]] = header.Text.Value
		}
		want := map[string]string{Service: fmt.Sprintf("s%d", i), ServiceNamespace: "demo", "x": ""}
		switch i {
		case 20:
			want = map[string]string{ServiceNamespace: "demo"}
		case 21:
			want = map[string]string{}
		}
		if !reflect.DeepEqual(conditions, want) {
			t.Errorf("rule %d has the conditions %v, want %v", i, conditions, want)
		}
	}
	if again, _ := Encode(compiled); bytes.Contains(again, []byte(Service)) {
		t.Error("the program of others has changed")
	}
}

// TestEncodeRefuses checks that the daemon knows which programs filters do not accept.
func TestEncodeRefuses(t *testing.T) {
	var compiler Compiler
	crowd := func(count int, spec string) (all []*Compiled) {
		for i := range count {
			one, err := compiler.Compile(policy(t, fmt.Sprintf("p%05d", i), spec))
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, one)
		}
		return all
	}
	rule := `{"fault": {"delay_ms": 1}}`
	headers := strings.TrimSuffix(strings.Repeat(`{"name": "a", "present": true},`, 300), ",")
	patterns := func(count int, pattern string) (all []*Compiled) {
		for i := range count {
			all = append(all, crowd(1, fmt.Sprintf(`{"rules": [{"match": {"path": {"regex": "`+pattern+`%d"}}, "fault": {"delay_ms": 1}}]}`, i))...)
			all[i].policy.Name = fmt.Sprint("p", i)
		}
		return all
	}
	for name, test := range map[string]struct {
		policies []*Compiled
		want     string
	}{
		"expressions":       {patterns(10_001, "/a.*"), "10001 different expressions"},
		"expressions' size": {patterns(500, `.*\\pL{10}`), "different expressions that take"},
		"rules":             {crowd(51, `{"rules": [`+strings.Repeat(rule+",", 1000)+rule+`]}`), "51051 rules"},
		"items":             {crowd(900, `{"rules": [{"match": {"headers": [`+headers+`]}, "fault": {"delay_ms": 1}}]}`), "conditions"},
		"bytes":             {crowd(50, `{"rules": [{"fault": {"abort": {"status": 503, "body": "`+strings.Repeat("x", 100_000)+`"}}}]}`), "bytes"},
	} {
		if _, err := Encode(test.policies); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: the error is %v, want %q", name, err, test.want)
		}
	}
}

// TestLargestProgramIsReadable checks that filters accept all that Encode returns.
func TestLargestProgramIsReadable(t *testing.T) {
	var compiler Compiler
	one, err := compiler.Compile(policy(t, "p", `{"rules": [`+strings.TrimSuffix(strings.Repeat(`{"match": {"path": {"prefix": "/a"}}, "fault": {"delay_ms": 1}},`, MaxRules), ",")+`]}`))
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := Encode([]*Compiled{one})
	if err != nil {
		t.Fatal(err)
	}
	if program, err := Read(encoded, frontend); err != nil || len(program.Rules) != MaxRules {
		t.Errorf("%v", err)
	}
}
