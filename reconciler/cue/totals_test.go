package cue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// TestPoliciesTooLargeTogetherAreWarnedOf checks that the daemon says at the largest policy which
// workload's filters refuse theirs, before they are served, and no longer than it is so.
func TestPoliciesTooLargeTogetherAreWarnedOf(t *testing.T) {
	w := New("policies")
	// A policy has 64 rules with bodies of 4,096 bytes at most: some 260 kB.
	large := func(name, selector string, rules int) schema.File {
		rule := fmt.Sprintf(`{"fault":{"abort":{"status":503,"body":%q}}},`, strings.Repeat("x", 4096))
		return content("policies/"+name+".json", fmt.Sprintf(
			`{"metadata":{"name":%q},"spec":{"selector":%s,"rules":[%s]}}`, name, selector, strings.TrimSuffix(strings.Repeat(rule, rules), ",")))
	}
	many := func(name, selector string) (files []schema.File) {
		for i := range 15 {
			files = append(files, large(fmt.Sprintf("%s-%02d", name, i), selector, 63))
		}
		return files
	}
	warned := func(commitName, base, want string, changes ...schema.File) {
		t.Helper()
		got := lines(apply(t, w, commit(commitName, base, changes...)).Warnings)
		if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s: the warnings are %.400q, want %q", commitName, got, want)
		}
	}
	warned("c1", "", "", many("cart", `{"service":"cart","namespace":"shop"}`)...)
	// Policies of another workload do not count.
	warned("c2", "c1", "", large("other", `{"service":"other","namespace":"shop"}`, 64))
	// Those for any service do, and the sixteenth and seventeenth exceed 4 MiB.
	warned("c3", "c2", "", large("any", `{"namespace":"shop"}`, 62))
	warned("c4", "c3", `policies/all.json:1:1: filters refuse the 17 policies of service "cart" in namespace "shop", of which "all" is the largest: they take 4`,
		large("all", `{}`, 64))
	warned("c5", "c4", "", gone("policies/cart-00.json"))
	var removed []schema.File
	for i := range 14 {
		removed = append(removed, gone(fmt.Sprintf("policies/cart-%02d.json", i+1)))
	}
	warned("c6", "c5", "", append(removed, gone("policies/other.json"))...)
	// A workload that no selector names by itself has the policies for its service and for its namespace.
	warned("c7", "c6", `filters refuse the 17 policies of service "pay" in namespace "shop"`, many("pay", `{"service":"pay"}`)...)
	// A gateway has the policies for gateways, and no others.
	warned("c8", "c7", "", gone("policies/pay-00.json"), large("any-gateway", `{"gateway":"*"}`, 64), large("mesh", `{"gateway":"*","namespace":"mesh"}`, 62))
	warned("c9", "c8", `filters refuse the 17 policies of gateway "ingress" in namespace "mesh", of which "any-gateway" is the largest`, many("ingress", `{"gateway":"ingress"}`)...)
}

// TestTotalsForgetWhatWasRemoved checks that only what is there counts, for every limit of a program.
func TestTotalsForgetWhatWasRemoved(t *testing.T) {
	policy := func(name string) *schema.Entry {
		rules := strings.TrimSuffix(strings.Repeat(`{"fault":{"delay_ms":1}},`, 64), ",")
		parsed, err := schema.Parse(fmt.Appendf(nil, `{"metadata":{"name":%q},"spec":{"selector":{"service":"cart","namespace":"shop"},"rules":[%s]}}`, name, rules))
		if err != nil {
			t.Fatal(err)
		}
		return schema.NewEntry(parsed, schema.Origin{})
	}
	totals := newTotals()
	const most = 50_000 / 64
	for i := range most + 1 {
		if got := totals.suspects(); got != nil {
			t.Fatalf("with %d rules: %v", 64*i, got)
		}
		entry := policy(fmt.Sprint(i))
		of, _ := cost(entry)
		totals.put(entry.Name(), entry, of)
	}
	if got := totals.suspects(); len(got) != 1 || got[0].Service != "cart" {
		t.Errorf("with more than 50,000 rules: %v", got)
	}
	for i := range most + 1 {
		totals.put(fmt.Sprint(i), nil, program.Weight{})
	}
	if totals.all != (program.Weight{}) || len(totals.byKey) > 0 || len(totals.byName) > 0 {
		t.Errorf("after all are removed: %+v", totals)
	}
}

// TestCostlyPoliciesAreValidatedInTime checks that policies whose expressions take long to compile
// hold up no other commit, and that filters do not get them.
func TestCostlyPoliciesAreValidatedInTime(t *testing.T) {
	var rules []string
	for i := range 64 {
		var headers []string
		for j := range 5 {
			headers = append(headers, fmt.Sprintf(`{"name":"x-%d","regex":"%d-%d(?:(?i)[\\pL\\pN]?\\b){150}"}`, j, i, j))
		}
		rules = append(rules, fmt.Sprintf(`{"match":{"headers":[%s]},"fault":{"delay_ms":1}}`, strings.Join(headers, ",")))
	}
	began := time.Now()
	verdict := apply(t, New("policies"), commit("c1", "",
		content("policies/costly.json", fmt.Sprintf(`{"metadata":{"name":"costly"},"spec":{"rules":[%s]}}`, strings.Join(rules, ",")))))
	got := lines(verdict.Warnings)
	if len(got) != 1 || !strings.Contains(got[0], "filters do not get it") || !strings.Contains(got[0], "too many and too costly together") {
		t.Errorf("warnings: %.300q", got)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s", took)
	}
}
