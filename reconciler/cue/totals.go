package cue

import (
	"fmt"
	"slices"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// maxTotalWarnings limits the warnings about policies that are too large together.
const maxTotalWarnings = 10

// weight is what policies take of a filter's limits, as an upper bound: expressions
// count once for each policy that has them.
type weight struct{ size, rules int }

func (w weight) plus(other weight) weight { return weight{w.size + other.size, w.rules + other.rules} }

func (w weight) minus(other weight) weight { return weight{w.size - other.size, w.rules - other.rules} }

// exceeds says whether filters may refuse the policies.
func (w weight) exceeds() bool { return w.size > program.MaxSize || w.rules > program.MaxRules }

// totals has the weights of policies, of all together and by selector. Only if all
// together exceed a filter's limits does a workload have to be looked at.
type totals struct {
	all   weight
	byKey map[selection.Key]weight
	// byName has what was added for each policy.
	byName map[string]share
}

type share struct {
	key    selection.Key
	weight weight
}

func newTotals() *totals {
	return &totals{byKey: map[selection.Key]weight{}, byName: map[string]share{}}
}

// put replaces the weight of a policy. A nil entry removes it.
func (t *totals) put(name string, entry *schema.Entry, of weight) {
	if before, known := t.byName[name]; known {
		delete(t.byName, name)
		t.all = t.all.minus(before.weight)
		if t.byKey[before.key] = t.byKey[before.key].minus(before.weight); t.byKey[before.key] == (weight{}) {
			delete(t.byKey, before.key)
		}
	}
	if entry == nil {
		return
	}
	added := share{selection.KeyOf(entry.Policy.Spec.Selector), of}
	t.byName[name] = added
	t.all = t.all.plus(of)
	t.byKey[added.key] = t.byKey[added.key].plus(of)
}

// suspects returns the workloads named by selectors whose policies may exceed a filter's
// limits together, sorted.
func (t *totals) suspects() []selection.Workload {
	if !t.all.exceeds() {
		return nil
	}
	// A policy for any service, or in any namespace, also applies to workloads that no
	// other selector names. Of these the one with the most other policies is looked at.
	heaviestService := t.heaviest(func(k selection.Key) (string, bool) { return k.Service, k.Namespace == schema.Any })
	heaviestNamespace := t.heaviest(func(k selection.Key) (string, bool) { return k.Namespace, k.Service == schema.Any })
	found := map[selection.Workload]bool{}
	for key := range t.byKey {
		workload := selection.Workload(key)
		if key.Service == schema.Any {
			workload.Service = heaviestService
		}
		if key.Namespace == schema.Any {
			workload.Namespace = heaviestNamespace
		}
		var sum weight
		for _, each := range workload.Keys() {
			sum = sum.plus(t.byKey[each])
		}
		if sum.exceeds() {
			found[workload] = true
		}
	}
	suspects := make([]selection.Workload, 0, len(found))
	for workload := range found {
		suspects = append(suspects, workload)
	}
	slices.SortFunc(suspects, func(a, b selection.Workload) int {
		return slices.Compare([]string{a.Service, a.Namespace}, []string{b.Service, b.Namespace})
	})
	return suspects
}

// heaviest returns the name with the largest policies among the keys that name accepts.
func (t *totals) heaviest(name func(selection.Key) (string, bool)) (heaviest string) {
	most := weight{size: -1}
	for key, sum := range t.byKey {
		if of, ok := name(key); ok && of != schema.Any && (sum.size > most.size || sum.size == most.size && of < heaviest) {
			heaviest, most = of, sum
		}
	}
	return heaviest
}

// totalWarnings returns a warning for each workload whose policies filters refuse because
// they are too large together, at the largest of them.
func (x *index) totalWarnings() (warnings []schema.Problem) {
	suspects := x.totals.suspects()
	if len(suspects) == 0 {
		return nil
	}
	selected, _ := new(selection.Index).Apply(schema.Diff(schema.NewSet(), x.set))
	for _, workload := range suspects[:min(len(suspects), maxTotalWarnings)] {
		entries := selected.Select(workload)
		var compiler program.Compiler
		var compiled []*program.Compiled
		largest := entries[0]
		for _, entry := range entries {
			if one, err := compiler.Compile(entry.Policy); err == nil {
				compiled = append(compiled, one)
			}
			if len(entry.Canonical) > len(largest.Canonical) {
				largest = entry
			}
		}
		if _, err := program.Encode(compiled); err != nil {
			warnings = append(warnings, schema.Problem{
				File: largest.Origin.File, Line: largest.Origin.Line, Column: 1,
				Message: fmt.Sprintf("filters refuse the %d policies of service %q in namespace %q, of which %q is the largest: %v: make them fewer or smaller",
					len(entries), workload.Service, workload.Namespace, largest.Name(), err),
			})
		}
	}
	return warnings
}
