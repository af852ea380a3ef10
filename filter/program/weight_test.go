package program

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/boifi/hfi/schema"
)

// TestWeightIsAnUpperBound encodes random policies together, and compares their program with
// the sum of their weights.
func TestWeightIsAnUpperBound(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	pick := func(texts ...string) string { return texts[random.IntN(len(texts))] }
	for round := range 100 {
		var policies []*schema.Policy
		for i := range 1 + random.IntN(400) {
			var each []string
			for range 1 + random.IntN(8) {
				match := pick(
					``,
					fmt.Sprintf(`"match": {"path": {"exact": "/%s/%d"}},`, strings.Repeat("x", random.IntN(900)), random.IntN(1000)),
					fmt.Sprintf(`"match": {"path": {"prefix": "/%d"}},`, random.IntN(1000)),
					fmt.Sprintf(`"match": {"path": {"regex": "/%d/[a-z]+"}, "methods": ["GET", "PUT"]},`, random.IntN(1000)),
					fmt.Sprintf(`"match": {"headers": [{"name": "x-%d", "exact": "%d"}, {"name": "x-user", "regex": "u%d.*"}]},`, random.IntN(500), random.IntN(50), random.IntN(1000)))
				each = append(each, `{`+match+pick(`"fault": {"delay_ms": 5}}`, `"fault": {"abort": {"status": 503, "body": "b", "headers": {"a": "b"}}}}`))
			}
			one := rules(t, fmt.Sprintf("p%d", i), each...)
			if random.IntN(3) == 0 {
				one.Spec.Direction = schema.Outbound
			}
			policies = append(policies, one)
		}
		var compiler Compiler
		var compiled []*Compiled
		var sum Weight
		for _, p := range policies {
			one, err := compiler.Compile(p)
			if err != nil {
				t.Fatal(err)
			}
			compiled = append(compiled, one)
			sum = sum.Plus(one.Weight())
		}
		_, used, err := encodeAndWeigh(compiled)
		if err != nil {
			t.Fatal(err)
		}
		if used.size > sum.size || used.rules > sum.rules || used.items > sum.items || used.expressions > sum.expressions || used.expressionsSize > sum.expressionsSize {
			t.Errorf("round %d: the program takes %+v, and the weight is %+v", round, used, sum)
		}
		for _, one := range compiled {
			sum = sum.Minus(one.Weight())
		}
		if sum != (Weight{}) {
			t.Errorf("without all policies, the weight is %+v", sum)
		}
	}
}

// TestExceeds checks that each limit of a program is one of the weight.
func TestExceeds(t *testing.T) {
	for _, w := range []Weight{
		{size: MaxSize}, {rules: MaxRules}, {items: MaxItems}, {expressions: MaxExpressions}, {expressionsSize: MaxExpressionsSize},
	} {
		if w.Exceeds() || !w.Plus(Weight{1, 1, 1, 1, 1}).Exceeds() {
			t.Errorf("%+v is not at a limit", w)
		}
	}
}

// TestPolicyAloneIsChecked checks that a policy which filters cannot have even alone does not
// compile.
func TestPolicyAloneIsChecked(t *testing.T) {
	var costly []string
	for i := range 200 {
		costly = append(costly, fmt.Sprintf(`{"match": {"path": {"regex": "%d(?:(?i)[\\pL\\pN]?\\b){150}"}}, "fault": {"delay_ms": 1}}`, i))
	}
	for want, p := range map[string]*schema.Policy{
		"spec: it is too large: they take": rules(t, "big", `{"fault": {"abort": {"status": 503, "body": "`+strings.Repeat("x", 5_000_000)+`"}}}`),
		"too many and too costly together": rules(t, "costly", costly...),
	} {
		if _, err := new(Compiler).Compile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %q", err, want)
		}
		var warm Compiler
		_, _ = warm.Compile(p)
		if _, err := warm.Compile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("compiled before, the error is %v, want %q", err, want)
		}
	}
}
