package fault

import (
	"fmt"
	"regexp/syntax"
	"runtime"
	"strings"
	"testing"
	"unicode"

	"github.com/boifi/hfi/schema"
)

// TestCommonExpressions checks that common expressions for paths and headers compile, and
// are evaluated on values as long as Envoy allows in headers.
func TestCommonExpressions(t *testing.T) {
	const envoyMax = 60 << 10
	for expression, longest := range map[string]int{
		`/api/.*`:                                   envoyMax,
		`/api/v[0-9]+/cart`:                         envoyMax,
		`.*session=[0-9a-f]+.*`:                     envoyMax,
		`^/item/\d+(/edit)?$`:                       envoyMax,
		`(?i).*(mobile|android).*`:                  50_000,
		`.*;\s*user=[^;]{1,64};.*`:                  8_000,
		`/[A-Za-z0-9_-]{1,64}/.*`:                   8_000,
		`/\pL{1,10}/.*`:                             1_500,
		`[^/]{1,255}`:                               2_500,
		`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`: 16_000,
		strings.Repeat(`/some/path/of/many|`, 25):   2_000,
	} {
		made, err := newCompiler(Limits{}).compileRegex(expression)
		if err != nil {
			t.Error(err)
		} else if made.longest < longest {
			t.Errorf("%s is only evaluated on values of up to %d bytes", expression, made.longest)
		}
	}
}

// TestStepsAreNoFewerThanInstructions checks that steps is an upper bound.
func TestStepsAreNoFewerThanInstructions(t *testing.T) {
	for _, expression := range costly {
		tree, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		made, err := syntax.Compile(tree.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		// Except the first instruction and the match.
		if n := steps(tree); n < len(made.Inst)-2 {
			t.Errorf("%.50s: %d steps but %d instructions", expression, n, len(made.Inst))
		}
	}
}

// TestStepsAreAsDocumented checks the numbers of steps in schema/README.md.
func TestStepsAreAsDocumented(t *testing.T) {
	for expression, want := range map[string]int{`/item/[0-9]{1,9}`: 25, `[^/]`: 1, `\pL`: 1 + len(unicode.L.R16)/8 + len(unicode.L.R32)/8} {
		tree, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		if got := steps(tree); got < want-5 || got > want+5 {
			t.Errorf("%s has %d steps, want about %d", expression, got, want)
		}
	}
}

// costly are expressions that take much memory or time for their length. Some of them
// exceed the limits.
var costly = []string{
	`(.?){240}`, `(a*){200}`, `(?:a|b|cd){200}`, `((((a?)?)?)?){60}`, `(?i)(?:\pL|k){10}`, `\pL{1,11}`, `(?:\PL\pN?){8}`, `[^a]{1,400}`,
	strings.Repeat(`.*`, 240), strings.Repeat(`a`, 999), `([a-z]*[a-z]*[a-z]*x){60}`, `(.*.*.*.*.*.*.*.*.*.*=)*`, `(((((((.*)*)*)*)*)*)*)*`,
	strings.Repeat(`(a|b)`, 150), `(?i)` + strings.Repeat(`k`, 500), `x{2,}y{3,5}z{0}`, ``,
}

// TestLongValueDoesNotMatchCostlyExpression checks that an expression is not evaluated on
// values for which it could take longer than tens of milliseconds.
func TestLongValueDoesNotMatchCostlyExpression(t *testing.T) {
	made, err := newCompiler(Limits{}).compileRegex(`(?:ab?){150}a*`)
	if err != nil {
		t.Fatal(err)
	}
	if made.longest > 3000 || made.longest < 1500 {
		t.Errorf("an expression of about 700 steps is evaluated on %d bytes", made.longest)
	}
	if value := strings.Repeat("a", made.longest); !made.holds(value) || made.holds(value+"a") {
		t.Errorf("the limit is not %d bytes", made.longest)
	}
}

// TestAllExpressionsTogetherAreBounded checks that the number of steps, and so the
// memory, of all policies' expressions is limited. Policies beyond the limit are skipped.
func TestAllExpressionsTogetherAreBounded(t *testing.T) {
	var policies []*schema.Policy
	for i := range 2000 {
		policies = append(policies, rules(t, fmt.Sprintf("p%04d", i), fmt.Sprintf(
			`{"match": {"path": {"regex": "(?i)(?:\\pL|k){10}%d"}}, "fault": {"abort": {"status": 503}}}`, i)))
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	program, failed := Compile(policies, Limits{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(program.Policies())+len(failed) != len(policies) || len(failed) == 0 || !strings.Contains(failed[0].Error(), "the steps of all regexes for this workload") {
		t.Errorf("%d policies are in force and %d are skipped", len(program.Policies()), len(failed))
	}
	if program.Policies()[0] != "p0000" || len(program.Policies()) < 100 {
		t.Errorf("only %d are in force", len(program.Policies()))
	}
	if grown := (after.HeapAlloc - before.HeapAlloc) >> 20; after.HeapAlloc > before.HeapAlloc && grown > 64 {
		t.Errorf("the heap grew by %d MiB", grown)
	}
	runtime.KeepAlive(policies)
}

// TestSkippedPolicyDoesNotCount checks that a skipped policy does not count against the
// limit, and that an expression in many policies counts once.
func TestSkippedPolicyDoesNotCount(t *testing.T) {
	var bomb []string
	for i := range 500 {
		bomb = append(bomb, fmt.Sprintf(`{"match": {"path": {"regex": "a{490}%d"}}, "fault": {"delay_ms": 1}}`, i))
	}
	policies := []*schema.Policy{rules(t, "a-bomb", bomb...)}
	for i := range 1000 {
		policies = append(policies, rules(t, fmt.Sprintf("p%04d", i), `{"match": {"path": {"regex": "a{490}1"}}, "fault": {"delay_ms": 1}}`))
	}
	program, failed := Compile(policies, Limits{})
	if len(failed) != 1 || !strings.Contains(failed[0].Error(), `"a-bomb"`) || len(program.Policies()) != 1000 {
		t.Errorf("%d policies are in force and %d are skipped", len(program.Policies()), len(failed))
	}
	if Check(policies[0]) == nil || Check(policies[1]) != nil {
		t.Errorf("alone: %v, %v", Check(policies[0]), Check(policies[1]))
	}
}
