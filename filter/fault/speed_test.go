package fault

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// plain is a request whose methods cost almost nothing.
type plain struct {
	path, user string
}

func (p *plain) Method() string { return "GET" }
func (p *plain) Path() string   { return p.path }
func (p *plain) Now() time.Time { return someMoment }
func (p *plain) Header(name string) (string, bool) {
	return p.user, name == "x-user"
}

// matching returns policies with the given match, in which # is replaced by a number. The
// request of speedCases matches number 7.
func matching(t testing.TB, count int, match string) []*schema.Policy {
	var all []*schema.Policy
	for i := range count {
		number := fmt.Sprintf("%04d", 7+i)
		text := strings.ReplaceAll(match, "#", number)
		all = append(all, rules(t, "p"+number, `{"match": `+text+`, "fault": {"percentage": 50, "delay_ms": 500}}`))
	}
	return all
}

var speedCases = []struct{ name, match string }{
	{"exact path", `{"path": {"exact": "/api/v1/shop/#"}}`},
	{"prefix", `{"path": {"prefix": "/api/v1/shop/#"}}`},
	{"regex", `{"path": {"regex": "^/api/v1/shop/#(/.*)?$"}}`},
	{"header", `{"headers": [{"name": "x-user", "exact": "user-#"}]}`},
	{"path and header", `{"path": {"exact": "/api/v1/shop/0007"}, "headers": [{"name": "x-user", "exact": "user-#"}]}`},
	{"header prefix (no index)", `{"headers": [{"name": "x-user", "prefix": "user-#"}]}`},
}

var speedRequest = &plain{path: "/api/v1/shop/0007?q=1", user: "user-0007"}

// TestDecideAllocatesNothing checks that a decision does not allocate memory: in a filter, an
// allocation and its collection cost as much as a call to the host.
func TestDecideAllocatesNothing(t *testing.T) {
	random := NewRandom(1)
	check := func(name string, program *decider) {
		t.Helper()
		hits := make([]Hit, 0, 2)
		decide := func() { Decide(program.Program, speedRequest, random, program.limits, hits) }
		if got := testing.AllocsPerRun(1000, decide); got != 0 {
			t.Errorf("%s: %v allocations", name, got)
		}
	}
	check("idle", new(decider))
	for _, test := range speedCases {
		for _, count := range []int{1, 8, 1000} {
			check(fmt.Sprint(test.name, " of ", count), compile(t, matching(t, count, test.match)...))
		}
	}
	check("an expiry, an abort and a delay", compile(t,
		policy(t, "a", `{"expires_at": "2027-01-31T13:00:00Z", "rules": [`+always100+`]}`),
		rules(t, "b", `{"match": {"methods": ["GET"], "headers": [{"name": "x-no", "present": false}]}, "fault": {"abort": {"status": 503, "body": "b"}}}`)))
	check("dry runs", compile(t,
		policy(t, "a", `{"dry_run": true, "rules": [`+strings.Repeat(always100+",", 6)+always100+`]}`),
		policy(t, "b", `{"dry_run": true, "rules": [{"fault": {"abort": {"status": 503}}}]}`)))
}

// TestIndexIsSelective checks that only few of 1,000 distinguishable policies are tried.
func TestIndexIsSelective(t *testing.T) {
	for _, test := range speedCases[:5] {
		program := compile(t, matching(t, 1000, test.match)...)
		if got := len(program.Index.Linear); got > 0 {
			t.Errorf("%s: %d rules are tried for each request", test.name, got)
		}
		groups := slices.Concat(program.Index.Exact, program.Index.Prefixes)
		for _, h := range program.Index.Headers {
			groups = append(groups, h.Groups...)
		}
		for _, group := range groups {
			if len(group.Rules) > 8 {
				t.Errorf("%s: %d rules share the key %s", test.name, len(group.Rules), group.Key)
			}
		}
	}
}

// TestIndexSkips checks that there is no draw for a rule that the index does not find.
func TestIndexSkips(t *testing.T) {
	crowd := matching(t, 1000, `{"path": {"prefix": "/api/v1/shop/0008"}}`)
	for _, policy := range crowd {
		policy.Metadata.Name = "crowd-" + policy.Metadata.Name
	}
	for _, test := range speedCases[:5] {
		program := compile(t, append(crowd, matching(t, 100, test.match)...)...)
		random := NewRandom(1)
		after := *random
		after.next()
		program.Decide(speedRequest, random)
		if *random != after {
			t.Errorf("%s: more or less than one number was drawn for one rule that matches", test.name)
		}
		program.Decide(&plain{path: "/api/v1/shop/9", user: "user"}, random)
		if *random != after {
			t.Errorf("%s: a number was drawn for rules that do not match", test.name)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	random := NewRandom(1)
	b.Run("idle", func(b *testing.B) {
		program := new(decider)
		for b.Loop() {
			program.Decide(speedRequest, random)
		}
	})
	for _, test := range speedCases {
		for _, count := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s/%d", test.name, count), func(b *testing.B) {
				program := compile(b, matching(b, count, test.match)...)
				b.ReportAllocs()
				for b.Loop() {
					program.Decide(speedRequest, random)
				}
			})
		}
	}
}

// BenchmarkThousandOverOne measures the cost of 1,000 policies of which one matches, divided
// by the cost of that one alone. The two are measured in turns. Reading the request costs
// nothing here, so the ratio is an upper bound for a filter.
func BenchmarkThousandOverOne(b *testing.B) {
	const turn = 1000
	for _, test := range speedCases {
		b.Run(test.name, func(b *testing.B) {
			programs := [2]*decider{compile(b, matching(b, 1, test.match)...), compile(b, matching(b, 1000, test.match)...)}
			random := NewRandom(1)
			var spent [2]time.Duration
			turns := 0
			for b.Loop() {
				for i, program := range programs {
					start := time.Now()
					for range turn {
						program.Decide(speedRequest, random)
					}
					spent[i] += time.Since(start)
				}
				turns++
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(spent[0])/float64(turns)/turn, "ns/one")
			b.ReportMetric(float64(spent[1])/float64(turns)/turn, "ns/thousand")
			b.ReportMetric(float64(spent[1])/float64(spent[0]), "ratio")
		})
	}
}
