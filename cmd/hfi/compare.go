package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/boifi/hfi/schema"
)

// changes are the differences between two sets of policies, by name.
type changes struct {
	Added   []addedOrRemoved `json:"added"`
	Removed []addedOrRemoved `json:"removed"`
	Changed []changedPolicy  `json:"changed"`
}

type addedOrRemoved struct {
	Name   string          `json:"name"`
	File   string          `json:"file,omitempty"`
	Line   int             `json:"line,omitempty"`
	Policy json.RawMessage `json:"policy"`
	policy *schema.Policy
}

type changedPolicy struct {
	Name   string        `json:"name"`
	File   string        `json:"file,omitempty"`
	Line   int           `json:"line,omitempty"`
	Fields []fieldChange `json:"fields"`
}

// fieldChange is a field that differs. Old or New is nil if only the other policy has the field.
type fieldChange struct {
	Field string          `json:"field"`
	Old   json.RawMessage `json:"old,omitempty"`
	New   json.RawMessage `json:"new,omitempty"`
}

func (c changes) none() bool { return len(c.Added)+len(c.Removed)+len(c.Changed) == 0 }

// compare lists by name what differs in meaning.
func compare(from, to *schema.Set) changes {
	found := changes{[]addedOrRemoved{}, []addedOrRemoved{}, []changedPolicy{}}
	all := schema.Diff(from, to)
	slices.SortFunc(all, func(a, b schema.Change) int { return strings.Compare(a.Name, b.Name) })
	for _, change := range all {
		switch {
		case change.OriginOnly():
		case change.Old == nil:
			origin := change.New.Origin
			found.Added = append(found.Added, addedOrRemoved{change.Name, origin.File, origin.Line, change.New.Canonical, change.New.Policy})
		case change.New == nil:
			found.Removed = append(found.Removed, addedOrRemoved{Name: change.Name, Policy: change.Old.Canonical, policy: change.Old.Policy})
		default:
			origin := change.New.Origin
			found.Changed = append(found.Changed, changedPolicy{change.Name, origin.File, origin.Line,
				compareFields(change.Old.Canonical, change.New.Canonical)})
		}
	}
	return found
}

// compareFields lists the fields that differ between two policies' canonical forms, by field.
func compareFields(from, to []byte) []fieldChange {
	before, after := fieldsOf(from), fieldsOf(to)
	var found []fieldChange
	for field, value := range before {
		if other, ok := after[field]; !ok || other != value {
			found = append(found, fieldChange{field, raw(value), raw(other)})
		}
	}
	for field, value := range after {
		if _, ok := before[field]; !ok {
			found = append(found, fieldChange{field, nil, raw(value)})
		}
	}
	slices.SortFunc(found, func(a, b fieldChange) int { return strings.Compare(a.Field, b.Field) })
	return found
}

func raw(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

// fieldsOf maps each field's path to its value as JSON. Objects and lists that are
// not empty appear through their fields only.
func fieldsOf(text []byte) map[string]string {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	// Keep numbers as written.
	decoder.UseNumber()
	var value any
	// The canonical form is always valid JSON.
	must(decoder.Decode(&value))
	fields := map[string]string{}
	flatten(fields, "", value)
	return fields
}

func flatten(fields map[string]string, at string, value any) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			flatten(fields, join(".", at, name), inner)
		}
	case []any:
		for i, inner := range value {
			flatten(fields, fmt.Sprintf("%s[%d]", at, i), inner)
		}
	default:
		text, err := json.Marshal(value)
		must(err)
		fields[at] = string(text)
	}
}

// names are the names of all policies that differ.
func (c changes) names() []string {
	var names []string
	for _, one := range slices.Concat(c.Added, c.Removed) {
		names = append(names, one.Name)
	}
	for _, one := range c.Changed {
		names = append(names, one.Name)
	}
	slices.Sort(names)
	return names
}

func (a *app) printChanges(found changes) error {
	if done, err := a.names(found.names()); done {
		return err
	}
	if done, err := a.value(found); done {
		return err
	}
	if found.none() {
		_, err := fmt.Fprintln(a.stdout, "No difference from what is served.")
		return err
	}
	for _, one := range found.Added {
		a.line(green, "+ %s: %s  (%s:%d)", one.Name, faults(one.policy), one.File, one.Line)
	}
	for _, one := range found.Removed {
		a.line(red, "- %s: %s", one.Name, faults(one.policy))
	}
	for _, one := range found.Changed {
		a.line(yellow, "~ %s  (%s:%d)", one.Name, one.File, one.Line)
		for _, field := range one.Fields {
			if field.Old != nil {
				a.line(red, "    - %s: %s", field.Field, field.Old)
			}
			if field.New != nil {
				a.line(green, "    + %s: %s", field.Field, field.New)
			}
		}
	}
	_, err := fmt.Fprintf(a.stdout, "%d added, %d removed, %d changed\n", len(found.Added), len(found.Removed), len(found.Changed))
	return err
}

// line prints a coloured line.
func (a *app) line(c colour, pattern string, args ...any) {
	fmt.Fprintln(a.stdout, a.paint(c, clean(fmt.Sprintf(pattern, args...))))
}
