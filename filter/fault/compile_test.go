package fault

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// TestCompileSkips checks that a policy that cannot be applied is skipped as a whole
// and named in an error with the reason. The others are in force.
func TestCompileSkips(t *testing.T) {
	good := `{"fault": {"delay_ms": 7}}`
	match := func(m string) string { return `{"match": ` + m + `, "fault": {"delay_ms": 9}}` }
	for _, test := range []struct{ rule, reason string }{
		{match(`{"path": {"regex": "("}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a)(b"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a\\"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "(?=a)"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "(a)\\1"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "a{1001}"}}`), "rules[1].match.path: regex"},
		{match(`{"path": {"regex": "(.?){999}(.?){999}(.?){999}(.?){999}"}}`), "steps"},
		{match(`{"path": {}}`), "rules[1].match.path: exactly one of"},
		{match(`{"path": {"suffix": "/new"}}`), "rules[1].match.path: exactly one of"},
		{match(`{"path": {"exact": "/a", "prefix": "/a"}}`), "rules[1].match.path: exactly one of"},
		{match(`{"headers": [{"name": "a", "present": true}, {"name": "b"}]}`), "rules[1].match.headers[1]: exactly one of"},
		{match(`{"headers": [{"name": "a", "exact": "1", "present": true}]}`), "rules[1].match.headers[0]: exactly one of"},
		{match(`{"headers": [{"name": "a", "regex": "["}]}`), "rules[1].match.headers[0]: regex"},
		{match(`{"headers": [{"name": "", "exact": "1"}]}`), "rules[1].match.headers[0]: name"},
		{match(`{"headers": [{"name": "a b", "exact": "1"}]}`), "rules[1].match.headers[0]: name"},
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
		program, failed := Compile([]*schema.Policy{
			rules(t, "bad", good, test.rule), rules(t, "a", good), nil, rules(t, "z", `{"fault": {"abort": {"status": 503}}}`),
		}, Limits{})
		if len(failed) != 1 || !strings.HasPrefix(failed[0].Error(), `policy "bad" cannot be applied: spec.`) ||
			!strings.Contains(failed[0].Error(), test.reason) {
			t.Errorf("%s: the errors are %v, want one with %q", test.rule, failed, test.reason)
		}
		if got := program.Policies(); !slices.Equal(got, []string{"a", "z"}) {
			t.Errorf("%s: in force are %q", test.rule, got)
		}
		if got := line(program.Decide(get("/"), NewRandom(1))); got != "7ms by a, 503 by z" {
			t.Errorf("%s: the others decide %q", test.rule, got)
		}
	}
	for _, share := range []schema.Percentage{-1, schema.All + 1} {
		bad := &schema.Policy{Spec: schema.Spec{Rules: []schema.Rule{{Fault: schema.Fault{Percentage: share, DelayMS: 1}}}}}
		if program, failed := Compile([]*schema.Policy{bad}, Limits{}); len(failed) != 1 || !program.Idle() {
			t.Errorf("a share of %d: %v", share, failed)
		}
	}
}

// TestCompileIgnoresUnknownFields checks that an older filter ignores the additional
// fields of a newer daemon.
func TestCompileIgnoresUnknownFields(t *testing.T) {
	program := compile(t, policy(t, "a", `{"owner": "x", "rules": [{"note": 1, "fault": {"delay_ms": 5, "jitter": 3}}]}`))
	if got := line(program.Decide(get("/"), NewRandom(1))); got != "5ms by a" {
		t.Error(got)
	}
}

// TestCompileAbort checks all fields of a compiled abort.
func TestCompileAbort(t *testing.T) {
	program := compile(t,
		rules(t, "a", `{"match": {"path": {"exact": "/http"}}, "fault": {"abort": {"status": 429, "body": "slow\n", "headers": {"Retry-After": "5", "B": "2\t2", "a": ""}}}}`),
		rules(t, "b", `{"fault": {"abort": {"grpc_status": 0}}}`))
	http := program.Decide(get("/http"), NewRandom(1)).Abort
	if http.Status != 429 || http.GRPCStatus != NoGRPC || string(http.Body) != "slow\n" ||
		!slices.Equal(http.Headers, [][2]string{{"a", ""}, {"b", "2\t2"}, {"retry-after", "5"}}) {
		t.Errorf("the abort by HTTP is %+v", http)
	}
	grpc := program.Decide(get("/grpc"), NewRandom(1)).Abort
	if grpc.Status != 200 || grpc.GRPCStatus != 0 || grpc.Body != nil || grpc.Headers != nil {
		t.Errorf("the abort by gRPC is %+v", grpc)
	}
}

// TestCompileCapsDelays checks that delays are limited, and never overflow.
func TestCompileCapsDelays(t *testing.T) {
	for _, test := range []struct {
		ms    int64
		limit time.Duration
		want  time.Duration
	}{
		{500, 0, 500 * time.Millisecond},
		{500, -1, 500 * time.Millisecond},
		{500, time.Second, 500 * time.Millisecond},
		{1000, time.Second, time.Second},
		{1001, time.Second, time.Second},
		{math.MaxInt64, time.Minute, time.Minute},
		{math.MaxInt64, 0, math.MaxInt64},
		{math.MaxInt64/1_000_000 + 1, 0, math.MaxInt64},
	} {
		slow := &schema.Policy{Spec: schema.Spec{Rules: []schema.Rule{{Fault: schema.Fault{Percentage: schema.All, DelayMS: test.ms}}}}}
		program, failed := Compile([]*schema.Policy{slow}, Limits{MaxDelay: test.limit})
		if failed != nil {
			t.Fatal(failed)
		}
		if got := program.Decide(get("/"), NewRandom(1)).Delay; got != test.want {
			t.Errorf("%d ms with the limit %v: %v, want %v", test.ms, test.limit, got, test.want)
		}
	}
	// Of two delays limited to the same length, the first applies.
	program, _ := Compile([]*schema.Policy{
		rules(t, "a", `{"fault": {"delay_ms": 2000}}`), rules(t, "b", `{"fault": {"delay_ms": 3000}}`),
	}, Limits{MaxDelay: time.Second})
	if got := line(program.Decide(get("/"), NewRandom(1))); got != "1s by a" {
		t.Error(got)
	}
}

// TestIdle checks that a program is idle if no rule can apply. A dry run can: it is
// counted.
func TestIdle(t *testing.T) {
	never := `{"fault": {"percentage": 0, "delay_ms": 5}}`
	for _, test := range []struct {
		policies []*schema.Policy
		want     bool
	}{
		{nil, true},
		{[]*schema.Policy{rules(t, "a", never), rules(t, "b", never, never)}, true},
		{[]*schema.Policy{rules(t, "a")}, true},
		{[]*schema.Policy{rules(t, "a", never, always100)}, false},
		{[]*schema.Policy{rules(t, "a", `{"fault": {"percentage": 0.0001, "delay_ms": 5}}`)}, false},
		{[]*schema.Policy{policy(t, "a", `{"dry_run": true, "rules": [`+always100+`]}`)}, false},
	} {
		program := compile(t, test.policies...)
		if got := program.Idle(); got != test.want {
			t.Errorf("idle with %q: %v, want %v", program.Policies(), got, test.want)
		}
		if len(program.Policies()) != len(test.policies) {
			t.Errorf("in force are %q of %d", program.Policies(), len(test.policies))
		}
	}
	if !new(Program).Idle() || line(new(Program).Decide(nil, nil)) != "" {
		t.Error("the zero Program is not idle")
	}
}

// TestProgramIsImmutable checks that a program shares no mutable data with its policies.
func TestProgramIsImmutable(t *testing.T) {
	p := policy(t, "a", `{"expires_at": "2027-01-31T12:00:00Z", "rules": [{"match": {"methods": ["GET"]}, "fault": {"abort": {"status": 503}}}]}`)
	program := compile(t, p)
	*p.Spec.ExpiresAt = time.Time{}
	p.Spec.Rules[0].Match.Methods[0] = "PUT"
	p.Spec.Rules[0].Fault.Abort.Status = 1
	if got := line(program.Decide(get("/"), NewRandom(1))); got != "503 by a" {
		t.Errorf("after a change to its policy: %q", got)
	}
}

// TestLiteralPrefix checks the prefix that is found in an expression.
func TestLiteralPrefix(t *testing.T) {
	for expression, want := range map[string]string{
		`/api/.*`: "/api/", `^/api/.*$`: "/api/", `\A/api`: "/api", `(?m)^/api`: "/api", `(/api)/x`: "/api", `/api`: "/api",
		`/api/(a|b)`: "/api/", `/a/b|/a/c`: "/a/", `\Q/a.b`: "/a.b", `/ab?`: "/a", `/ab*`: "/a", `(^/a)b`: "",
		`(?i)/api`: "", `.*/api`: "", `/?api`: "", ``: "", `a|b`: "", `/\x{FFFD}x`: "/",
	} {
		made, err := newCompiler(Limits{}).compileRegex(expression)
		if err != nil {
			t.Fatal(err)
		}
		// A longer prefix is better. Other tests check that it is correct.
		if !strings.HasPrefix(made.value, want) {
			t.Errorf("%s begins with %q, want %q", expression, made.value, want)
		}
	}
}
