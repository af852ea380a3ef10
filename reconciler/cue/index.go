package cue

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// unit has the policies and problems of one file or one CUE package. When
// something changes, whole units are validated again.
type unit struct {
	// key is the path of the file, or that of the package's folder with a slash
	// at its end.
	key string
	// entries are the policies in the order of the source. It is empty if there
	// are errors.
	entries []*schema.Entry
	// weights are those of the entries.
	weights  map[*schema.Entry]program.Weight
	errors   []schema.Problem
	warnings []schema.Problem
	// deleted reports that the file or package was deleted.
	deleted bool
}

// index has all units. It keeps lists of the units and names that matter for a
// verdict, so that the cost of a verdict depends on the size of the change.
type index struct {
	units map[string]*unit
	// owners has the entries of each name, sorted by origin. More than one entry
	// is an error.
	owners map[string][]*schema.Entry
	// duplicated has the names in owners with more than one entry.
	duplicated map[string]bool
	// withProblems has the keys of the units with errors or warnings.
	withProblems map[string]bool
	// expiring has the names of the policies with an expiry time.
	expiring map[string]bool
	// weights are those of all units' entries.
	weights map[*schema.Entry]program.Weight
	// set has the first owner of each name, and totals their weights.
	set    *schema.Set
	totals *totals
	// refusals has errors of program.Encode by the digest of the policies.
	refusals map[schema.Digest]error
}

func newIndex() *index {
	return &index{
		units: map[string]*unit{}, owners: map[string][]*schema.Entry{}, duplicated: map[string]bool{},
		withProblems: map[string]bool{}, expiring: map[string]bool{}, weights: map[*schema.Entry]program.Weight{}, set: schema.NewSet(), totals: newTotals(), refusals: map[schema.Digest]error{},
	}
}

func byOrigin(a, b *schema.Entry) int {
	return cmp.Or(cmp.Compare(a.Origin.File, b.Origin.File), cmp.Compare(a.Origin.Line, b.Origin.Line))
}

// update replaces the units with the same keys.
func (x *index) update(units []*unit) {
	touched, removed := map[string]bool{}, map[*schema.Entry]bool{}
	// All removals come before the additions: a policy may have moved from one unit to another.
	for _, u := range units {
		before := x.units[u.key]
		if before == nil {
			continue
		}
		for _, entry := range before.entries {
			touched[entry.Name()], removed[entry] = true, true
			delete(x.weights, entry)
		}
		delete(x.units, u.key)
		delete(x.withProblems, u.key)
	}
	// Once for each name: very many files may have the same one.
	for name := range touched {
		x.owners[name] = slices.DeleteFunc(x.owners[name], func(e *schema.Entry) bool { return removed[e] })
	}
	for _, u := range units {
		if u.deleted {
			continue
		}
		x.units[u.key] = u
		if len(u.errors) > 0 || len(u.warnings) > 0 {
			x.withProblems[u.key] = true
		}
		for _, entry := range u.entries {
			touched[entry.Name()] = true
			x.owners[entry.Name()] = append(x.owners[entry.Name()], entry)
			x.weights[entry] = u.weights[entry]
		}
	}
	var puts []*schema.Entry
	var deletes []string
	for name := range touched {
		owners := x.owners[name]
		delete(x.duplicated, name)
		delete(x.expiring, name)
		if len(owners) == 0 {
			delete(x.owners, name)
			deletes = append(deletes, name)
			x.totals.put(name, nil, program.Weight{})
			continue
		}
		slices.SortFunc(owners, byOrigin)
		if len(owners) > 1 {
			x.duplicated[name] = true
		}
		if owners[0].Policy.Spec.ExpiresAt != nil {
			x.expiring[name] = true
		}
		puts = append(puts, owners[0])
		x.totals.put(name, owners[0], x.weights[owners[0]])
	}
	x.set = x.set.With(puts, deletes)
}

// verdict returns the verdict on all units. now decides which policies have expired.
func (x *index) verdict(now time.Time) *schema.Verdict {
	verdict := &schema.Verdict{}
	for key := range x.withProblems {
		verdict.Errors = append(verdict.Errors, x.units[key].errors...)
		verdict.Warnings = append(verdict.Warnings, x.units[key].warnings...)
	}
	for name := range x.duplicated {
		verdict.Errors = append(verdict.Errors, duplicateNames(name, x.owners[name])...)
	}
	for name := range x.expiring {
		if entry := x.owners[name][0]; entry.Policy.Expired(now) {
			verdict.Warnings = append(verdict.Warnings, schema.Problem{
				File: entry.Origin.File, Line: entry.Origin.Line, Column: 1, Field: "spec.expires_at",
				Message: fmt.Sprintf("policy %q expired at %s and has no effect any more; it can be deleted",
					name, entry.Policy.Spec.ExpiresAt.Format(time.RFC3339)),
			})
		}
	}
	verdict.Warnings = append(verdict.Warnings, x.totalWarnings()...)
	slices.SortFunc(verdict.Errors, schema.CompareProblems)
	slices.SortFunc(verdict.Warnings, schema.CompareProblems)
	if len(verdict.Errors) == 0 {
		verdict.Set = x.set
	}
	return verdict
}

// duplicateNames returns a problem for each place where a duplicate name is used.
func duplicateNames(name string, owners []*schema.Entry) []schema.Problem {
	var problems []schema.Problem
	for i, owner := range owners {
		other := owners[0]
		if i == 0 {
			other = owners[1]
		}
		more := ""
		if len(owners) > 2 {
			more = fmt.Sprintf(" and %d more places", len(owners)-2)
		}
		problems = append(problems, schema.Problem{
			File: owner.Origin.File, Line: owner.Origin.Line, Column: 1, Field: "metadata.name",
			Message: fmt.Sprintf("the name %q is used here and in %s, line %d%s; policy names must be unique",
				name, other.Origin.File, other.Origin.Line, more),
		})
	}
	return problems
}
