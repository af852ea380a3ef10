package cue

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/schema"
)

// maxTotalWarnings limits the warnings about policies that are too large together.
const maxTotalWarnings = 10

// totals has the weights of policies, of all together and by selector. Only if all
// together exceed a filter's limits does a workload have to be looked at.
type totals struct {
	all   program.Weight
	byKey map[selection.Key]program.Weight
	// byName has what was added for each policy.
	byName map[string]share
}

type share struct {
	key    selection.Key
	weight program.Weight
}

func newTotals() *totals {
	return &totals{byKey: map[selection.Key]program.Weight{}, byName: map[string]share{}}
}

// put replaces the weight of a policy. A nil entry removes it.
func (t *totals) put(name string, entry *schema.Entry, of program.Weight) {
	if before, known := t.byName[name]; known {
		delete(t.byName, name)
		t.all = t.all.Minus(before.weight)
		if t.byKey[before.key] = t.byKey[before.key].Minus(before.weight); t.byKey[before.key] == (program.Weight{}) {
			delete(t.byKey, before.key)
		}
	}
	if entry == nil {
		return
	}
	added := share{selection.KeyOf(entry.Policy.Spec.Selector), of}
	t.byName[name] = added
	t.all = t.all.Plus(of)
	t.byKey[added.key] = t.byKey[added.key].Plus(of)
}

// suspects returns the workloads named by selectors whose policies may exceed a filter's
// limits together, sorted.
func (t *totals) suspects() []selection.Workload {
	if !t.all.Exceeds() {
		return nil
	}
	// A policy for any service, or in any namespace, also applies to workloads that no
	// other selector names. Of these the one with the most other policies is looked at.
	// Gateways are apart from workloads.
	heaviest := map[bool]heaviestNames{false: t.heaviest(false), true: t.heaviest(true)}
	found := map[selection.Workload]bool{}
	for key := range t.byKey {
		workload := selection.Workload{Service: key.Service, Namespace: key.Namespace, Gateway: key.Gateway}
		names := heaviest[key.Gateway != ""]
		switch {
		case key.Gateway == schema.Any:
			workload.Gateway = cmp.Or(names.name, schema.Any)
		case key.Gateway == "" && key.Service == schema.Any:
			workload.Service = names.name
		}
		if key.Namespace == schema.Any {
			workload.Namespace = names.namespace
		}
		var sum program.Weight
		for _, each := range workload.Keys() {
			sum = sum.Plus(t.byKey[each])
		}
		if sum.Exceeds() {
			found[workload] = true
		}
	}
	suspects := make([]selection.Workload, 0, len(found))
	for workload := range found {
		suspects = append(suspects, workload)
	}
	slices.SortFunc(suspects, func(a, b selection.Workload) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Namespace, b.Namespace))
	})
	return suspects
}

// heaviestNames are the service or gateway with the largest policies that apply in any
// namespace, and the namespace with the largest ones for any service or gateway.
type heaviestNames struct{ name, namespace string }

func (t *totals) heaviest(gateways bool) (heaviest heaviestNames) {
	mostNamed, mostIn := -1, -1
	for key, sum := range t.byKey {
		name := key.Service
		if gateways {
			name = key.Gateway
		}
		size := sum.Size()
		if (key.Gateway != "") != gateways || (name == schema.Any) == (key.Namespace == schema.Any) {
			continue
		}
		if key.Namespace == schema.Any {
			if size > mostNamed || size == mostNamed && name < heaviest.name {
				heaviest.name, mostNamed = name, size
			}
		} else if size > mostIn || size == mostIn && key.Namespace < heaviest.namespace {
			heaviest.namespace, mostIn = key.Namespace, size
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
		largest := entries[0]
		for _, entry := range entries {
			if len(entry.Canonical) > len(largest.Canonical) {
				largest = entry
			}
		}
		if err := x.encode(entries); err != nil {
			warnings = append(warnings, schema.Problem{
				File: largest.Origin.File, Line: largest.Origin.Line, Column: 1,
				Message: fmt.Sprintf("filters refuse the %d policies of %s, of which %q is the largest: %v: make them fewer or smaller",
					len(entries), workload, largest.Name(), err),
			})
		}
	}
	return warnings
}

// encode returns the error for which filters refuse the policies together. It keeps that
// of the last policies, because most commits change others.
func (x *index) encode(entries []*schema.Entry) error {
	digest := schema.NewSet(entries...).Digest()
	if err, known := x.refusals[digest]; known {
		return err
	}
	var compiled []*program.Compiled
	for _, entry := range entries {
		if one, err := compiler.Compile(entry.Policy); err == nil {
			compiled = append(compiled, one)
		}
	}
	_, err := program.Encode(compiled)
	if len(x.refusals) >= 2*maxTotalWarnings {
		clear(x.refusals)
	}
	x.refusals[digest] = err
	return err
}
