package fault

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

const always100 = `{"fault": {"delay_ms": 500}}`

// line formats a decision of d: "500ms by a, 503 by b, dry c delay".
func (d *decider) line(decision Decision) string {
	var parts []string
	if decision.Delay != 0 {
		parts = append(parts, fmt.Sprintf("%v by %s", decision.Delay, decision.DelayPolicy))
	}
	if decision.Abort != nil {
		parts = append(parts, fmt.Sprintf("%d by %s", decision.Abort.Status, decision.AbortPolicy))
	}
	for _, hit := range decision.DryRun {
		parts = append(parts, fmt.Sprintf("dry %s %s", d.Policies[hit.Policy].Name, hit.Kind))
	}
	return strings.Join(parts, ", ")
}

// TestComposition checks that the longest delay applies, followed by the first abort in the
// order of policies' names and of rules, for any order of the input.
func TestComposition(t *testing.T) {
	delay := func(ms int) string { return fmt.Sprintf(`{"fault": {"delay_ms": %d}}`, ms) }
	abort := func(status int) string { return fmt.Sprintf(`{"fault": {"abort": {"status": %d}}}`, status) }
	both := func(ms, status int) string {
		return fmt.Sprintf(`{"fault": {"delay_ms": %d, "abort": {"status": %d}}}`, ms, status)
	}
	dry := func(name string, each ...string) *schema.Policy {
		p := rules(t, name, each...)
		p.Spec.DryRun = true
		return p
	}
	never := func(rule string) string {
		return strings.Replace(rule, `"fault": {`, `"fault": {"percentage": 0, `, 1)
	}
	for _, test := range []struct {
		policies []*schema.Policy
		want     string
	}{
		{nil, ""},
		{[]*schema.Policy{rules(t, "a", delay(500))}, "500ms by a"},
		{[]*schema.Policy{rules(t, "a", abort(503))}, "503 by a"},
		{[]*schema.Policy{rules(t, "a", both(500, 503))}, "500ms by a, 503 by a"},
		// The longest delay.
		{[]*schema.Policy{rules(t, "a", delay(1)), rules(t, "b", delay(3)), rules(t, "c", delay(2))}, "3ms by b"},
		{[]*schema.Policy{rules(t, "a", delay(1), delay(3), delay(2))}, "3ms by a"},
		{[]*schema.Policy{rules(t, "b", delay(3)), rules(t, "a", delay(3))}, "3ms by a"},
		// The first abort.
		{[]*schema.Policy{rules(t, "b", abort(500)), rules(t, "a", abort(503))}, "503 by a"},
		{[]*schema.Policy{rules(t, "a", abort(503), abort(500))}, "503 by a"},
		{[]*schema.Policy{rules(t, "a-b", abort(501)), rules(t, "a", abort(502)), rules(t, "a0", abort(503))}, "502 by a"},
		{[]*schema.Policy{rules(t, "p10", abort(510)), rules(t, "p9", abort(509))}, "510 by p10"},
		// Delay and abort are independent.
		{[]*schema.Policy{rules(t, "a", both(1, 503)), rules(t, "b", both(9, 500))}, "9ms by b, 503 by a"},
		{[]*schema.Policy{rules(t, "a", delay(1)), rules(t, "b", abort(500)), rules(t, "c", delay(2))}, "2ms by c, 500 by b"},
		// A share of 0 never applies.
		{[]*schema.Policy{rules(t, "a", never(both(9, 503))), rules(t, "b", delay(1))}, "1ms by b"},
		// A dry run is reported and has no effect.
		{[]*schema.Policy{dry("a", both(9, 503))}, "dry a delay, dry a abort"},
		{[]*schema.Policy{dry("a", both(9, 503)), rules(t, "b", both(1, 500))}, "1ms by b, 500 by b, dry a delay, dry a abort"},
		{[]*schema.Policy{rules(t, "a", both(9, 503)), dry("b", both(1, 500))}, "9ms by a, 503 by a, dry b delay, dry b abort"},
		{[]*schema.Policy{dry("b", delay(1)), dry("a", abort(500))}, "dry a abort, dry b delay"},
		{[]*schema.Policy{dry("a", abort(500), delay(1), delay(2), abort(503))}, "dry a delay, dry a abort"},
		{[]*schema.Policy{dry("a", never(delay(1)))}, ""},
	} {
		for _, among := range []bool{false, true} {
			policies := test.policies
			if among {
				policies = append(filler(t), policies...)
			}
			for range 2 {
				program := compile(t, policies...)
				decision := program.Decide(get("/"), NewRandom(1))
				if got := program.line(decision); got != test.want {
					t.Errorf("among others %v: %q, want %q", among, got, test.want)
				}
				checkNames(t, program, decision)
				policies = slices.Clone(policies)
				slices.Reverse(policies)
			}
		}
	}
}

// checkNames compares the indices in a decision with the program's policies.
func checkNames(t *testing.T, program *decider, d Decision) {
	t.Helper()
	name := func(index int) string {
		if index == None {
			return ""
		}
		return program.Policies[index].Name
	}
	if name(d.DelayIndex) != d.DelayPolicy || name(d.AbortIndex) != d.AbortPolicy {
		t.Errorf("indices %d and %d are not those of %q and %q", d.DelayIndex, d.AbortIndex, d.DelayPolicy, d.AbortPolicy)
	}
	if (d.Delay != 0) != (d.DelayIndex != None) || (d.Abort != nil) != (d.AbortIndex != None) {
		t.Errorf("a fault without a policy, or a policy without a fault: %+v", d)
	}
}

// TestExpiry checks that a policy has no effect from its expiry on.
func TestExpiry(t *testing.T) {
	end := time.Date(2027, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		expires string
		now     time.Time
		want    string
	}{
		{"2027-01-31T12:00:00Z", end.Add(-time.Nanosecond), "500ms by a"},
		{"2027-01-31T12:00:00Z", end, ""},
		{"2027-01-31T12:00:00Z", end.Add(time.Hour), ""},
		{"2027-01-31T13:00:00+01:00", end.Add(-1), "500ms by a"},
		{"2027-01-31T13:00:00+01:00", end, ""},
		{"0001-01-01T00:00:00Z", end, ""},
	} {
		for _, more := range [][]*schema.Policy{nil, filler(t)} {
			a := policy(t, "a", `{"expires_at": "`+test.expires+`", "rules": [`+always100+`]}`)
			program := compile(t, append(more, a)...)
			request := get("/")
			request.now = test.now
			if got := program.line(program.Decide(request, NewRandom(1))); got != test.want {
				t.Errorf("expires at %s, now %v: %q, want %q", test.expires, test.now, got, test.want)
			}
		}
	}
	// An expired policy does not affect others, and dry runs expire too.
	program := compile(t,
		policy(t, "a", `{"expires_at": "2027-01-31T12:00:00Z", "rules": [{"fault": {"delay_ms": 900, "abort": {"status": 503}}}]}`),
		policy(t, "b", `{"rules": [{"fault": {"delay_ms": 100, "abort": {"status": 500}}}]}`),
		policy(t, "c", `{"expires_at": "2027-01-31T12:00:00Z", "dry_run": true, "rules": [`+always100+`]}`))
	request := get("/")
	request.now = end
	if got := program.line(program.Decide(request, NewRandom(1))); got != "100ms by b, 500 by b" {
		t.Errorf("after the expiry: %q", got)
	}
	request.now = end.Add(-1)
	if got := program.line(program.Decide(request, NewRandom(1))); got != "900ms by a, 503 by a, dry c delay" {
		t.Errorf("before the expiry: %q", got)
	}
}

// TestManyDryRuns checks the order of the faults of more dry-run policies than fit on the stack,
// which an index finds in another order.
func TestManyDryRuns(t *testing.T) {
	var policies []*schema.Policy
	var want []string
	for i := range 30 {
		name := fmt.Sprintf("p%02d", i)
		match := []string{`{"path": {"prefix": "/a"}}`, `{}`, `{"path": {"exact": "/a/b"}}`}[i%3]
		policies = append(policies, policy(t, name, `{"dry_run": true, "rules": [{"match": `+match+`, "fault": {"delay_ms": 1}}]}`))
		want = append(want, "dry "+name+" delay")
		program := compile(t, policies...)
		decision := program.Decide(get("/a/b"), NewRandom(1))
		if got := program.line(decision); got != strings.Join(want, ", ") {
			t.Errorf("%d policies: %q", i+1, got)
		}
	}
}

// TestReadsLittle checks that a decision reads nothing from a request that no rule needs,
// and nothing twice.
func TestReadsLittle(t *testing.T) {
	with := func(match, more string) string {
		return `{"match": ` + match + `, "fault": {"delay_ms": 1` + more + `}}`
	}
	long := func(match string) string { return `{"match": ` + match + `, "fault": {"delay_ms": 99000}}` }
	never := `, "percentage": 0`
	rare := `, "percentage": 0.0001`
	expiring := func(rule string) *schema.Policy {
		return policy(t, "expiring", `{"expires_at": "2027-01-31T12:00:00Z", "rules": [`+rule+`]}`)
	}
	many := func(match string) []*schema.Policy {
		var all []*schema.Policy
		for i := range 50 {
			all = append(all, rules(t, fmt.Sprint("p", i), with(strings.ReplaceAll(match, "#", fmt.Sprint(i)), "")))
		}
		return all
	}
	path, user := `{"path": {"prefix": "/a"}}`, `{"headers": [{"name": "x-user", "exact": "u7"}]}`
	for _, test := range []struct {
		what     string
		policies []*schema.Policy
		want     string
	}{
		{"nothing in force", nil, ""},
		{"no condition", []*schema.Policy{rules(t, "a", always100)}, ""},
		{"never drawn", []*schema.Policy{rules(t, "a", with(path, never), with(user, never))}, ""},
		{"hardly ever drawn", []*schema.Policy{rules(t, "a", with(path, rare), with(user, rare))}, ""},
		{"an empty prefix", []*schema.Policy{rules(t, "a", with(`{"path": {"prefix": ""}}`, ""))}, ""},
		{"a path", []*schema.Policy{rules(t, "a", with(path, ""))}, "path"},
		{"a path that does not match, and a header", []*schema.Policy{rules(t, "a",
			with(`{"path": {"exact": "/z"}, "methods": ["GET"], "headers": [{"name": "x-user", "present": true}]}`, ""))}, "path"},
		{"a method that does not match, and a header", []*schema.Policy{rules(t, "a",
			with(`{"methods": ["PUT"], "headers": [{"name": "x-user", "present": true}]}`, ""))}, "method"},
		{"the same path, method and header, three times", []*schema.Policy{rules(t, "a",
			with(`{"path": {"prefix": "/a"}, "methods": ["GET"], "headers": [{"name": "x-user", "prefix": "u"}]}`, ""),
			with(`{"path": {"regex": "/a.*"}, "methods": ["GET"], "headers": [{"name": "X-User", "present": true}]}`, ""),
			with(`{"path": {"exact": "/a"}, "methods": ["GET"], "headers": [{"name": "x-user", "exact": "u7"}]}`, ""))},
			"method path x-user"},
		{"a header that is not there, twice", []*schema.Policy{rules(t, "a",
			with(`{"headers": [{"name": "x-no", "present": false}]}`, ""), with(`{"headers": [{"name": "x-no", "present": true}]}`, ""))}, "x-no"},
		{"the first of two headers fails", []*schema.Policy{rules(t, "a",
			with(`{"headers": [{"name": "x-no", "present": true}, {"name": "x-user", "present": true}]}`, ""))}, "x-no"},
		{"a rule that could change nothing", []*schema.Policy{rules(t, "a", `{"fault": {"delay_ms": 9}}`, with(user, ""))}, ""},
		{"a longer delay could follow", []*schema.Policy{rules(t, "a", `{"fault": {"delay_ms": 9}}`, long(user))}, "x-user"},
		{"an expiry", []*schema.Policy{expiring(with(path, ""))}, "now path"},
		{"an expiry of a rule that does not match", []*schema.Policy{expiring(with(`{"path": {"exact": "/z"}}`, ""))}, "path"},
		{"an expiry of a rule that is not drawn", []*schema.Policy{expiring(with(`{}`, rare))}, ""},
		{"two expiries", []*schema.Policy{policy(t, "two", `{"expires_at": "2027-01-31T12:00:00Z", "rules": [{"fault": {"delay_ms": 1}}, {"fault": {"delay_ms": 2}}]}`)}, "now"},
		{"many paths", many(`{"path": {"exact": "/#"}}`), "path"},
		{"many prefixes", many(`{"path": {"prefix": "/#"}}`), "path"},
		{"many paths, one with a header", append(many(`{"path": {"exact": "/#"}}`),
			rules(t, "a", with(`{"path": {"exact": "/b"}, "headers": [{"name": "x-user", "exact": "u7"}]}`, ""))), "path"},
		{"many users", many(`{"headers": [{"name": "x-user", "exact": "u#"}]}`), "x-user"},
		{"many users on one path", many(`{"path": {"exact": "/b"}, "headers": [{"name": "x-user", "exact": "v#"}]}`), "x-user"},
		{"many users on one path, one of them here", many(`{"path": {"exact": "/a"}, "headers": [{"name": "x-user", "exact": "u#"}]}`), "path x-user"},
		{"many paths, and a header that one rule wants", append(many(`{"path": {"exact": "/#"}}`), rules(t, "a", with(user, rare))), "path"},
		{"many users of one kind", many(`{"headers": [{"name": "x-kind", "exact": "k"}, {"name": "x-user", "exact": "v#"}]}`), "x-user"},
		{"many users, and an expression that begins with anything", append(many(`{"headers": [{"name": "x-user", "exact": "v#"}]}`),
			rules(t, "a", with(`{"path": {"regex": ".*z"}}`, rare))), "x-user"},
		{"one path and one header for all", many(`{"path": {"exact": "/b"}, "headers": [{"name": "x-kind", "exact": "k"}]}`), "path"},
		{"many methods", many(`{"methods": ["BREW", "M#"]}`), "method"},
	} {
		request := get("/a?q", "x-user", "u7")
		compile(t, test.policies...).Decide(request, NewRandom(3))
		if got := strings.Join(slices.Sorted(maps.Keys(request.asked)), " "); got != test.want {
			t.Errorf("%s: the decision has read %q, want %q", test.what, got, test.want)
		}
		for what, times := range request.asked {
			if times > 1 {
				t.Errorf("%s: %s was read %d times", test.what, what, times)
			}
		}
	}
}

// TestRulesDrawIndependently checks that the rate of a rule does not depend on other rules,
// and that a delay and an abort of one rule share a draw.
func TestRulesDrawIndependently(t *testing.T) {
	const count = 300_000
	policies := []*schema.Policy{
		rules(t, "a", `{"fault": {"percentage": 30, "abort": {"status": 503}}}`),
		rules(t, "b", `{"fault": {"percentage": 50, "delay_ms": 500}}`),
		policy(t, "c", `{"dry_run": true, "rules": [{"fault": {"percentage": 20, "delay_ms": 9, "abort": {"status": 500}}}]}`),
	}
	for _, seed := range someSeeds() {
		for _, more := range [][]*schema.Policy{nil, filler(t)} {
			program := compile(t, append(more, policies...)...)
			random := NewRandom(seed)
			request := &plain{path: "/"}
			var aborts, delays, dry, abortAndDelay, abortAndDry, delayAndDry int
			for range count {
				d := program.Decide(request, random)
				a, b, c := d.Abort != nil, d.Delay != 0, len(d.DryRun) > 0
				if c && len(d.DryRun) != 2 {
					t.Fatal("the delay and the abort of one fault were drawn separately")
				}
				count := func(n *int, yes bool) {
					if yes {
						*n++
					}
				}
				count(&aborts, a)
				count(&delays, b)
				count(&dry, c)
				count(&abortAndDelay, a && b)
				count(&abortAndDry, a && c)
				count(&delayAndDry, b && c)
			}
			within(t, "aborts", aborts, count, 0.3)
			within(t, "delays", delays, count, 0.5)
			within(t, "dry runs", dry, count, 0.2)
			within(t, "aborts with a delay", abortAndDelay, count, 0.15)
			within(t, "aborts with a dry run", abortAndDry, count, 0.06)
			within(t, "delays with a dry run", delayAndDry, count, 0.1)
			if t.Failed() {
				t.Fatalf("with seed %d", seed)
			}
		}
	}
}

// TestRatesCompose checks that two rules of 50 % abort three of four requests.
func TestRatesCompose(t *testing.T) {
	const count = 300_000
	program := compile(t, rules(t, "a",
		`{"fault": {"percentage": 50, "abort": {"status": 503}}}`,
		`{"fault": {"percentage": 50, "abort": {"status": 500}}}`))
	random := NewRandom(5)
	byStatus := map[int]int{}
	for range count {
		if d := program.Decide(&plain{path: "/"}, random); d.Abort != nil {
			byStatus[d.Abort.Status]++
		}
	}
	within(t, "503", byStatus[503], count, 0.5)
	within(t, "500", byStatus[500], count, 0.25)
}
