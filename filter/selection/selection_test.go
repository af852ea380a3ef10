package selection

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/boifi/hfi/schema"
)

// applies is a second, simpler implementation of the rule.
func applies(selector schema.Selector, workload Workload) bool {
	if workload.Waypoint {
		return selector.Gateway == "" && (selector.Namespace == "" || selector.Namespace == "*" || selector.Namespace == workload.Namespace)
	}
	if selector.Gateway != "" || workload.Gateway != "" {
		gatewayFits := workload.Gateway != "" && (selector.Gateway == "*" || selector.Gateway != "" && selector.Gateway == workload.Gateway)
		return gatewayFits && (selector.Namespace == "" || selector.Namespace == "*" || selector.Namespace == workload.Namespace)
	}
	serviceFits := selector.Service == "" || selector.Service == "*" || selector.Service == workload.Service
	namespaceFits := selector.Namespace == "" || selector.Namespace == "*" || selector.Namespace == workload.Namespace
	return serviceFits && namespaceFits
}

// TestMatches checks which workloads a selector matches. Empty or missing means "*".
func TestMatches(t *testing.T) {
	frontend := Workload{Service: "frontend", Namespace: "demo"}
	for _, test := range []struct {
		service, namespace string
		workload           Workload
		want               bool
	}{
		{"frontend", "demo", frontend, true},
		{"frontend", "*", frontend, true},
		{"frontend", "", frontend, true},
		{"*", "demo", frontend, true},
		{"", "demo", frontend, true},
		{"*", "*", frontend, true},
		{"", "", frontend, true},
		// A policy for frontend does not apply to productcatalog.
		{"frontend", "demo", Workload{Service: "productcatalog", Namespace: "demo"}, false},
		{"frontend", "*", Workload{Service: "productcatalog", Namespace: "demo"}, false},
		{"frontend", "demo", Workload{Service: "frontend", Namespace: "shop"}, false},
		{"*", "demo", Workload{Service: "frontend", Namespace: "shop"}, false},
		// Names are compared as a whole and are case-sensitive.
		{"front", "demo", frontend, false},
		{"Frontend", "demo", frontend, false},
		// Without an identity only wildcard policies apply.
		{"frontend", "demo", Workload{}, false},
		{"frontend", "*", Workload{}, false},
		{"*", "demo", Workload{}, false},
		{"*", "*", Workload{}, true},
		{"*", "demo", Workload{Namespace: "demo"}, true},
		{"frontend", "demo", Workload{Namespace: "demo"}, false},
		{"frontend", "*", Workload{Service: "frontend"}, true},
		// "*" is not the name of a workload.
		{"frontend", "*", Workload{Service: "*", Namespace: "demo"}, false},
		{"*", "demo", Workload{Service: "*", Namespace: "demo"}, true},
	} {
		selector := schema.Selector{Service: test.service, Namespace: test.namespace}
		if got := Matches(selector, test.workload); got != test.want {
			t.Errorf("Matches(%+v, %+v) = %v, want %v", selector, test.workload, got, test.want)
		}
		if got := applies(selector, test.workload); got != test.want {
			t.Errorf("applies(%+v, %+v) = %v, want %v", selector, test.workload, got, test.want)
		}
	}
}

// TestGatewaysAreApartFromWorkloads checks that a selector with a gateway matches no workload,
// and one without no gateway, so that a policy is applied once on the way through a gateway
// and a sidecar.
func TestGatewaysAreApartFromWorkloads(t *testing.T) {
	ingress := Workload{Namespace: "mesh", Gateway: "ingress"}
	for _, test := range []struct {
		selector schema.Selector
		workload Workload
		want     bool
	}{
		{schema.Selector{Gateway: "ingress", Namespace: "mesh"}, ingress, true},
		{schema.Selector{Gateway: "ingress"}, ingress, true},
		{schema.Selector{Gateway: "*", Namespace: "mesh"}, ingress, true},
		{schema.Selector{Gateway: "*", Service: "*", Namespace: "*"}, ingress, true},
		{schema.Selector{Gateway: "egress", Namespace: "mesh"}, ingress, false},
		{schema.Selector{Gateway: "ingress", Namespace: "demo"}, ingress, false},
		{schema.Selector{}, ingress, false},
		{schema.Selector{Service: "*", Namespace: "mesh"}, ingress, false},
		{schema.Selector{Service: "ingress", Namespace: "mesh"}, ingress, false},
		{schema.Selector{Service: "ingress"}, Workload{Service: "ingress", Namespace: "mesh", Gateway: "ingress"}, false},
		{schema.Selector{Gateway: "*"}, Workload{Service: "frontend", Namespace: "demo"}, false},
		{schema.Selector{Gateway: "frontend"}, Workload{Service: "frontend", Namespace: "demo"}, false},
		{schema.Selector{Gateway: "*"}, Workload{}, false},
		// The name of a gateway may be unknown.
		{schema.Selector{Gateway: "*", Namespace: "mesh"}, Workload{Namespace: "mesh", Gateway: "*"}, true},
		{schema.Selector{Gateway: "ingress"}, Workload{Namespace: "mesh", Gateway: "*"}, false},
		{schema.Selector{}, Workload{Namespace: "mesh", Gateway: "*"}, false},
		// A waypoint has the policies for the workloads of its namespace.
		{schema.Selector{}, Workload{Namespace: "mesh", Waypoint: true}, true},
		{schema.Selector{Service: "cart"}, Workload{Namespace: "mesh", Waypoint: true}, true},
		{schema.Selector{Service: "cart", Namespace: "mesh"}, Workload{Namespace: "mesh", Waypoint: true}, true},
		{schema.Selector{Service: "cart", Namespace: "demo"}, Workload{Namespace: "mesh", Waypoint: true}, false},
		{schema.Selector{Service: "cart", Namespace: "mesh"}, Workload{Waypoint: true}, false},
		{schema.Selector{Gateway: "*"}, Workload{Namespace: "mesh", Waypoint: true}, false},
	} {
		if got := Matches(test.selector, test.workload); got != test.want {
			t.Errorf("Matches(%+v, %+v) = %v, want %v", test.selector, test.workload, got, test.want)
		}
		if got := applies(test.selector, test.workload); got != test.want {
			t.Errorf("applies(%+v, %+v) = %v, want %v", test.selector, test.workload, got, test.want)
		}
	}
}

func FuzzMatches(f *testing.F) {
	for _, seed := range [][6]string{{"frontend", "demo", "", "frontend", "demo", ""}, {"*", "", "", "", "*", ""}, {"", "a", "", "b", "a", ""}, {"", "a", "g", "", "a", "g"}} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4], seed[5])
	}
	f.Fuzz(func(t *testing.T, selectorService, selectorNamespace, selectorGateway, service, namespace, gateway string) {
		selector := schema.Selector{Service: selectorService, Namespace: selectorNamespace, Gateway: selectorGateway}
		workload := Workload{Service: service, Namespace: namespace, Gateway: gateway}
		if got, want := Matches(selector, workload), applies(selector, workload); got != want {
			t.Errorf("Matches(%+v, %+v) = %v, want %v", selector, workload, got, want)
		}
		entry := entryOf("one", selector, 1, "")
		index, _ := new(Index).Apply([]schema.Change{{Name: "one", New: entry}})
		if got := len(index.Select(workload)) == 1; got != applies(selector, workload) {
			t.Errorf("the index of %+v selects it for %+v: %v", selector, workload, got)
		}
	})
}

func entryOf(name string, selector schema.Selector, delay int64, file string) *schema.Entry {
	return schema.NewEntry(&schema.Policy{
		Metadata: schema.Metadata{Name: name},
		Spec: schema.Spec{
			Selector: selector,
			Rules:    []schema.Rule{{Fault: schema.Fault{Percentage: schema.All, DelayMS: delay}}},
		},
	}, schema.Origin{File: file, Line: 1})
}

var someNames = []string{"", "*", "a", "b", "c"}

// change returns a random next set: policies are added, removed, or get another
// selector, content or origin.
func change(random *rand.Rand, set *schema.Set) *schema.Set {
	var puts []*schema.Entry
	var deletes []string
	for range random.IntN(6) {
		name := fmt.Sprintf("p%d", random.IntN(40))
		before := set.Get(name)
		switch {
		case before != nil && random.IntN(3) == 0:
			deletes = append(deletes, name)
		case before != nil && random.IntN(3) == 0:
			puts = append(puts, before.WithOrigin(schema.Origin{File: fmt.Sprint(random.IntN(9))}))
		default:
			selector := schema.Selector{Namespace: someNames[random.IntN(len(someNames))]}
			if random.IntN(2) == 0 {
				selector.Service = someNames[random.IntN(len(someNames))]
			} else {
				selector.Gateway = someNames[random.IntN(len(someNames))]
			}
			puts = append(puts, entryOf(name, selector, int64(1+random.IntN(2)), "f"))
		}
	}
	return set.With(puts, deletes)
}

func workloads() []Workload {
	var all []Workload
	for _, service := range append(someNames, "other") {
		for _, namespace := range append(someNames, "other") {
			all = append(all, Workload{Service: service, Namespace: namespace}, Workload{Namespace: namespace, Gateway: service}, Workload{Service: service, Namespace: namespace, Waypoint: true})
		}
	}
	return all
}

func plainSelect(set *schema.Set, workload Workload) []*schema.Entry {
	var selected []*schema.Entry
	for _, entry := range set.Entries() {
		if Matches(entry.Policy.Spec.Selector, workload) {
			selected = append(selected, entry)
		}
	}
	return selected
}

// TestIndexAgreesWithMatches checks that the index selects the same entries as a search of
// all policies after any number of changes, that earlier indexes do not change, and that
// the content of a workload's selection changes exactly if one of its keys was touched.
func TestIndexAgreesWithMatches(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	type past struct {
		index *Index
		set   *schema.Set
	}
	for range 40 {
		index, set := new(Index), schema.NewSet()
		history := []past{{index, set}}
		for range 40 {
			next := change(random, set)
			after, touched := index.Apply(schema.Diff(set, next))
			for _, workload := range workloads() {
				before, now := index.Select(workload), after.Select(workload)
				if want := plainSelect(next, workload); !same(now, want) {
					t.Fatalf("Select(%+v) gives %v, want %v", workload, names(now), names(want))
				}
				if reduced := after.Reduced(workload); !same(now, after.Select(reduced)) || after.Reduced(reduced) != reduced {
					t.Fatalf("%+v is reduced to %+v, with %v, want %v", workload, reduced, names(after.Select(reduced)), names(now))
				}
				concerned := slices.ContainsFunc(workload.Keys(), func(k Key) bool { return slices.Contains(touched, k) })
				if changed := schema.NewSet(before...).Digest() != schema.NewSet(now...).Digest(); changed != concerned {
					t.Fatalf("selection of %+v changed: %v, touched keys %v", workload, changed, touched)
				}
			}
			index, set = after, next
			history = append(history, past{index, set})
		}
		for _, p := range history {
			for _, workload := range workloads() {
				if !same(p.index.Select(workload), plainSelect(p.set, workload)) {
					t.Fatalf("an index has changed")
				}
			}
		}
	}
}

func same(a, b []*schema.Entry) bool {
	return slices.EqualFunc(a, b, func(a, b *schema.Entry) bool {
		return a.Name() == b.Name() && a.Hash == b.Hash && a.Origin == b.Origin
	})
}

func names(entries []*schema.Entry) []string {
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return all
}

// TestIndexStaysShallow checks that the tree is shallow for any order of policies, and that
// one change creates few new nodes.
func TestIndexStaysShallow(t *testing.T) {
	const count = 10_000
	index := new(Index)
	for i := range count {
		entry := entryOf(fmt.Sprintf("p%06d", i), schema.Selector{Service: "*", Namespace: "*"}, 1, "")
		index, _ = index.Apply([]schema.Change{{Name: entry.Name(), New: entry}})
	}
	if depth := index.root.depth(); depth > 60 {
		t.Errorf("%d policies, added in the order of their names, make a tree of depth %d", count, depth)
	}
	old := index.Select(Workload{})[count/2]
	next, _ := index.Apply([]schema.Change{{Name: old.Name(), Old: old, New: entryOf(old.Name(), schema.Selector{}, 2, "")}})
	known := map[*node]bool{}
	index.root.each(func(n *node) { known[n] = true })
	made := 0
	next.root.each(func(n *node) {
		if !known[n] {
			made++
		}
	})
	if made == 0 || made > 120 {
		t.Errorf("one change of %d policies created %d nodes", count, made)
	}
}

func (n *node) depth() int {
	if n == nil {
		return 0
	}
	return 1 + max(n.left.depth(), n.right.depth())
}

func (n *node) each(do func(*node)) {
	if n != nil {
		n.left.each(do)
		do(n)
		n.right.each(do)
	}
}

func BenchmarkApplyOne(b *testing.B) {
	for _, count := range []int{100, 10_000} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var entries []*schema.Entry
			for i := range count {
				entries = append(entries, entryOf(fmt.Sprint("p", i), schema.Selector{Service: fmt.Sprint("s", i%100), Namespace: "n"}, 1, ""))
			}
			set := schema.NewSet(entries...)
			index, _ := new(Index).Apply(schema.Diff(schema.NewSet(), set))
			changes := []schema.Change{{Name: "p7", Old: set.Get("p7"), New: entryOf("p7", schema.Selector{Service: "s7", Namespace: "n"}, 2, "")}}
			for b.Loop() {
				index.Apply(changes)
			}
		})
	}
}
