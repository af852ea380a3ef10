package fault

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// fake is a request that counts the calls of its methods.
type fake struct {
	method, path string
	headers      map[string]string
	now          time.Time
	asked        map[string]int
}

func (f *fake) count(what string) {
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	f.asked[what]++
}

func (f *fake) Method() string { f.count("method"); return f.method }
func (f *fake) Path() string   { f.count("path"); return f.path }
func (f *fake) Now() time.Time { f.count("now"); return f.now }
func (f *fake) Header(name string) (string, bool) {
	f.count(name)
	value, ok := f.headers[name]
	return value, ok
}

// get returns a request. Its headers are given as name, value, name, value …
func get(path string, headers ...string) *fake {
	request := &fake{method: "GET", path: path, headers: map[string]string{}}
	for i := 0; i < len(headers); i += 2 {
		request.headers[headers[i]] = headers[i+1]
	}
	return request
}

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

// decider decides with a program and limits.
type decider struct {
	*program.Program
	limits Limits
}

func (d *decider) Decide(request Request, random *Random) Decision {
	return Decide(d.Program, request, random, d.limits, nil)
}

// compile compiles policies without errors.
func compile(t testing.TB, policies ...*schema.Policy) *decider {
	t.Helper()
	made, inForce := compileValid(t, policies, Limits{})
	if len(inForce) != len(policies) {
		t.Fatalf("only %d of %d policies compile", len(inForce), len(policies))
	}
	return made
}

// compileValid compiles those policies that compile, encodes them as the daemon does, and
// reads them as a filter does.
func compileValid(t testing.TB, policies []*schema.Policy, limits Limits) (made *decider, inForce []*schema.Policy) {
	t.Helper()
	var compiler program.Compiler
	var compiled []*program.Compiled
	for _, policy := range policies {
		if one, err := compiler.Compile(policy); err == nil {
			compiled = append(compiled, one)
			inForce = append(inForce, policy)
		}
	}
	encoded, err := program.Encode(compiled)
	if err != nil {
		t.Fatal(err)
	}
	read, err := program.Read(encoded, selection.Workload{})
	if err != nil {
		t.Fatal(err)
	}
	return &decider{read, limits}, inForce
}

// filler returns enough policies for an index, none of which matches a request of the tests.
func filler(t testing.TB) []*schema.Policy {
	var all []*schema.Policy
	for i := range 24 {
		var match string
		switch i % 4 {
		case 0:
			match = fmt.Sprintf(`{"path": {"exact": "/nobody/%d"}}`, i)
		case 1:
			match = fmt.Sprintf(`{"path": {"prefix": "/nobody/%d/"}}`, i)
		case 2:
			match = fmt.Sprintf(`{"path": {"regex": "/nobody/%d/.*"}}`, i)
		case 3:
			match = `{"methods": ["BREW"]}`
		}
		all = append(all, rules(t, fmt.Sprintf("nobody-%d", i), `{"match": `+match+`, "fault": {"abort": {"status": 418}}}`))
	}
	for i := range 16 {
		for _, name := range []string{"x-user", "x-env"} {
			match := fmt.Sprintf(`{"headers": [{"name": %q, "exact": "nobody-%d"}]}`, name, i)
			all = append(all, rules(t, fmt.Sprintf("%s-%d", name, i), `{"match": `+match+`, "fault": {"delay_ms": 99000}}`))
		}
	}
	return all
}

// TestMatch checks each condition of a match, alone and with others. Every row is decided
// alone and, with the index, among many policies.
func TestMatch(t *testing.T) {
	program := map[string]*decider{}
	for _, test := range matchTable {
		for _, among := range []string{"alone", "among many"} {
			t.Run(test.match+" "+test.request.method+" "+test.request.path+" "+among, func(t *testing.T) {
				key := test.match + among
				if program[key] == nil {
					one := rules(t, "one", `{"match": `+test.match+`, "fault": {"abort": {"status": 503}}}`)
					if among == "alone" {
						program[key] = compile(t, one)
					} else {
						program[key] = compile(t, append(filler(t), one)...)
						if program[key].Index == nil {
							t.Fatal("the program of many policies has no index")
						}
					}
				}
				request := test.request
				request.asked = nil
				decision := program[key].Decide(&request, NewRandom(1))
				if got := decision.Abort != nil; got != test.want {
					t.Errorf("applies: %v, want %v (headers %v)", got, test.want, request.headers)
				}
				if decision.Abort != nil && decision.AbortPolicy != "one" {
					t.Errorf("the abort is by policy %q", decision.AbortPolicy)
				}
				if decision.Delay != 0 || decision.DryRun != nil {
					t.Errorf("the decision has more than the policy: %+v", decision)
				}
				for what, times := range request.asked {
					if times > 1 {
						t.Errorf("%s was read %d times", what, times)
					}
				}
			})
		}
	}
	if len(matchTable) < 60 {
		t.Errorf("the table has %d rows", len(matchTable))
	}
}
