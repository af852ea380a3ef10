package cue

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/boifi/hfi/schema"
)

// unit is what one file or one package of CUE holds: the smallest thing that
// is vetted again when something changes.
type unit struct {
	// key is the file's path; for a package its folder's, with a slash at the end.
	key string
	// entries are the policies, in the order written. There are none where there are errors.
	entries  []*schema.Entry
	errors   []schema.Problem
	warnings []schema.Problem
	// gone says that there is nothing of that key any more.
	gone bool
}

// index is all units, with what it takes to give the next verdict at the
// price of the change.
type index struct {
	units map[string]*unit
	// owners are the entries of each name, by origin; a name with two is an error.
	owners map[string][]*schema.Entry
	// doubled are the names in owners with more than one entry.
	doubled map[string]bool
	// troubled are the keys of units with errors or warnings.
	troubled map[string]bool
	// expiring are the names of policies that expire.
	expiring map[string]bool
	// set has each name's first owner.
	set *schema.Set
}

func newIndex() *index {
	return &index{
		units: map[string]*unit{}, owners: map[string][]*schema.Entry{}, doubled: map[string]bool{},
		troubled: map[string]bool{}, expiring: map[string]bool{}, set: schema.NewSet(),
	}
}

func byOrigin(a, b *schema.Entry) int {
	return cmp.Or(cmp.Compare(a.Origin.File, b.Origin.File), cmp.Compare(a.Origin.Line, b.Origin.Line))
}

// update puts units in the place of those with the same keys.
func (x *index) update(units []*unit) {
	touched := map[string]bool{}
	// First everything out, then everything in: a policy may have moved.
	for _, u := range units {
		before := x.units[u.key]
		if before == nil {
			continue
		}
		for _, entry := range before.entries {
			touched[entry.Name()] = true
			x.owners[entry.Name()] = slices.DeleteFunc(x.owners[entry.Name()], func(e *schema.Entry) bool { return e == entry })
		}
		delete(x.units, u.key)
		delete(x.troubled, u.key)
	}
	for _, u := range units {
		if u.gone {
			continue
		}
		x.units[u.key] = u
		if len(u.errors) > 0 || len(u.warnings) > 0 {
			x.troubled[u.key] = true
		}
		for _, entry := range u.entries {
			touched[entry.Name()] = true
			x.owners[entry.Name()] = append(x.owners[entry.Name()], entry)
		}
	}
	var puts []*schema.Entry
	var deletes []string
	for name := range touched {
		owners := x.owners[name]
		delete(x.doubled, name)
		delete(x.expiring, name)
		if len(owners) == 0 {
			delete(x.owners, name)
			deletes = append(deletes, name)
			continue
		}
		slices.SortFunc(owners, byOrigin)
		if len(owners) > 1 {
			x.doubled[name] = true
		}
		if owners[0].Policy.Spec.ExpiresAt != nil {
			x.expiring[name] = true
		}
		puts = append(puts, owners[0])
	}
	x.set = x.set.With(puts, deletes)
}

// verdict is what all units come to.
func (x *index) verdict(now time.Time) *schema.Verdict {
	verdict := &schema.Verdict{}
	for key := range x.troubled {
		verdict.Errors = append(verdict.Errors, x.units[key].errors...)
		verdict.Warnings = append(verdict.Warnings, x.units[key].warnings...)
	}
	for name := range x.doubled {
		verdict.Errors = append(verdict.Errors, doubles(name, x.owners[name])...)
	}
	for name := range x.expiring {
		if entry := x.owners[name][0]; entry.Policy.Expired(now) {
			verdict.Warnings = append(verdict.Warnings, schema.Problem{
				File: entry.Origin.File, Line: entry.Origin.Line, Column: 1, Field: "spec.expires_at",
				Message: fmt.Sprintf("policy %q expired at %s and does nothing any more; it can be deleted",
					name, entry.Policy.Spec.ExpiresAt.Format(time.RFC3339)),
			})
		}
	}
	slices.SortFunc(verdict.Errors, schema.CompareProblems)
	slices.SortFunc(verdict.Warnings, schema.CompareProblems)
	if len(verdict.Errors) == 0 {
		verdict.Set = x.set
	}
	return verdict
}

// doubles names, at each place where a policy's name is used, the others.
func doubles(name string, owners []*schema.Entry) []schema.Problem {
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
			Message: fmt.Sprintf("the name %q is used here and in %s, line %d%s; each policy needs a name of its own",
				name, other.Origin.File, other.Origin.Line, more),
		})
	}
	return problems
}
