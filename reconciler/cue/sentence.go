package cue

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"

	"github.com/boifi/hfi/schema"
)

// finding is an error of CUE, with a sentence for the author of the policy.
type finding struct {
	at fieldPath
	// replacement is the value that replaces the wrong one in the search for further
	// errors. If it is empty, the field is removed.
	replacement string
	// conditions are set if the struct must have exactly one of these fields.
	conditions []string
	// limit is the line of the limit that the value is against, if it is known.
	limit int
	// lacking reports that a struct lacks one of several fields.
	lacking bool
	problem schema.Problem
}

// outboundOnly completes the sentence for a destination in an inbound policy.
const outboundOnly = "is where the selected workload sends a request: write direction: outbound in spec, or remove it"

const (
	notAllowed = "field not allowed"
	isMissing  = "field is required but not present"
)

// findings converts CUE's errors for a document into findings, one for each
// place. It returns at least one.
func findings(document ast.Expr, err error) []finding {
	all := errors.Errors(err)
	var found []finding
	seen := map[string]bool{}
	add := func(f finding) {
		// Report one error for each place.
		if key := fmt.Sprintf("%q", f.at); !seen[key] {
			seen[key] = true
			found = append(found, f)
		}
	}
	for _, e := range all {
		if f, ok := findingOf(document, e); ok {
			add(f)
		}
	}
	if len(found) == 0 {
		// Every error only explains another one, which CUE did not return.
		add(fallback(document, all))
	}
	slices.SortStableFunc(found, func(a, b finding) int { return schema.CompareProblems(a.problem, b.problem) })
	return found
}

// fallback returns a finding at the deepest place that CUE's errors name.
func fallback(document ast.Expr, all []errors.Error) finding {
	var at fieldPath
	for _, e := range all {
		if p := unquoted(e.Path()); len(p) > len(at) {
			if _, value, _ := node(document, p); value != nil {
				at = p
			}
		}
	}
	return newFinding(document, at, "does not conform to the schema")
}

// findingOf converts one error. It returns false for an error that only explains
// another, such as which of several alternative fields was missing.
func findingOf(document ast.Expr, e errors.Error) (finding, bool) {
	format, _ := e.Msg()
	message := e.Error()
	at := unquoted(e.Path())
	if endsWithNames(e.Path()) {
		at = append(slices.Clone(at[:len(at)-1]), "headers")
	}
	if _, value, _ := node(document, at); value == nil && strings.HasPrefix(format, "parse error") {
		// A number that CUE cannot represent, such as .inf. The error's path has no
		// list indices.
		at = pathTo(document, e.Position())
	}
	general := at.general()
	w, known := fields[general]

	switch _, value, _ := node(document, at); {
	case strings.HasPrefix(format, notAllowed) || !known:
		return unknownField(document, at), true
	case general == destinationField && strings.Contains(message, needsOutbound):
		f := newFinding(document, at, outboundOnly)
		f.replacement = "" // removes it
		return f, true
	case strings.HasPrefix(format, isMissing):
		if !required(general) {
			return finding{}, false
		}
		f := newFinding(document, at, "is missing")
		return f, true
	case strings.Contains(message, "matchN)") || strings.Contains(message, "MinFields(") || strings.Contains(message, "MaxFields(") && w.needs != "":
		return needs(document, at, w, value), true
	case value == nil:
		return newFinding(document, at, "is missing"), true
	default:
		return newFinding(document, at, complaint(w, message, value)), true
	}
}

// needs returns the finding for a struct with too few fields, or too many.
func needs(document ast.Expr, at fieldPath, w fieldInfo, value ast.Expr) finding {
	given := count(value, w.conditions)
	if given == 1 {
		// There is one condition, as required, so another field is missing or unknown.
		if _, name, _ := node(value, fieldPath{"name"}); name == nil && at.general() == "spec.rules[].match.headers[]" {
			return newFinding(document, append(slices.Clone(at), "name"), "is missing")
		}
		if x, ok := value.(*ast.StructLit); ok {
			for _, decl := range x.Elts {
				if field, ok := decl.(*ast.Field); ok {
					if below := append(slices.Clone(at), labelOf(field)); fields[below.general()].must == "" {
						return unknownField(document, below)
					}
				}
			}
		}
	}
	if _, ok := value.(*ast.StructLit); !ok && value != nil {
		return newFinding(document, at, complaint(fieldInfo{must: w.must}, "", value))
	}
	f := newFinding(document, at, w.needs)
	f.conditions = w.conditions
	return f
}

// complaint returns what is wrong with the value of a field.
func complaint(w fieldInfo, message string, value ast.Expr) string {
	if !strings.Contains(message, "mismatched types") {
		for _, l := range w.limits {
			if strings.Contains(message, l.marker) {
				return strings.ReplaceAll(l.sentence, "%v", show(value))
			}
		}
	}
	sentence := fmt.Sprintf("must be %s, not %s", w.must, show(value))
	if instead := insteadOf(w, value); instead != "" {
		sentence += "; " + instead
	}
	return sentence
}

// insteadOf returns a clause that says what to write in place of a value, or "".
func insteadOf(w fieldInfo, value ast.Expr) string {
	x, ok := value.(*ast.BasicLit)
	switch {
	case !ok:
		return ""
	case x.Kind == token.NULL && strings.HasPrefix(w.must, aMapping) && w.must != fields[""].must:
		return "indent its fields below it"
	case x.Kind == token.NULL || x.Kind == token.INT || w.instead == nil:
		return ""
	}
	text := x.Value
	if x.Kind == token.STRING {
		text, _ = literal.Unquote(text)
	}
	return w.instead(text)
}

// newFinding returns a finding at a field that the schema has.
func newFinding(document ast.Expr, at fieldPath, complaint string) finding {
	name := "a policy"
	if len(at) > 0 {
		name = at[len(at)-1]
		if above := at[:len(at)-1]; endsInList(above) {
			name = "this item of " + above[len(above)-1]
		} else if above.general() == headersField {
			name = "the value of header " + quote(name)
		}
	}
	line, column := 1, 1
	if n := deepest(document, at); n != nil {
		line, column = nodePlace(n)
	}
	return finding{
		at:          slices.Clone(at),
		replacement: cmp.Or(fields[at.general()].sample, "null"),
		problem: schema.Problem{
			Line: line, Column: column, Field: at.String(),
			Message: name + " " + complaint,
		},
	}
}

// unknownField returns the finding for a field that the schema does not have.
func unknownField(document ast.Expr, at fieldPath) finding {
	// For a field inside an unknown field, report the outer one.
	for i := range at {
		if _, known := fields[at[:i+1].general()]; !known {
			at = at[:i+1]
			break
		}
	}
	if len(at) == 0 {
		return newFinding(document, at, "does not conform to the schema")
	}
	parent := at[:len(at)-1]
	name := at[len(at)-1]
	f := newFinding(document, at, "")
	f.replacement = ""
	if field, _, _ := node(document, at); field != nil {
		f.problem.Line, f.problem.Column = nodePlace(field.Label)
	}
	if parent.general() == headersField {
		if slices.Contains(connectionHeaders, strings.ToLower(name)) {
			f.problem.Message = fmt.Sprintf("an abort must not have the header %s: it concerns the connection, and HTTP/2 forbids it in a response", quote(name))
			return f
		}
		f.problem.Message = fmt.Sprintf("%s is not a valid header name: use at most 128 letters, digits and hyphens, without spaces and colons", quote(name))
		return f
	}
	f.problem.Message = fmt.Sprintf("unknown field %s", quote(name))
	if remedy := remedies[at.general()]; remedy != "" {
		f.problem.Message += "; " + remedy
	} else if meant := didYouMean(name, parent.general()); meant != "" {
		f.problem.Message += fmt.Sprintf("; did you mean %q?", meant)
	} else if home := homeOf(name); home != "" {
		f.problem.Message += fmt.Sprintf("; it is a field of %s: check the indentation", home)
	}
	return f
}

// required reports whether a field is required.
func required(general string) bool {
	switch general {
	case "metadata", "metadata.name", "spec", "spec.rules", "spec.rules[].fault", "spec.rules[].match.headers[].name":
		return true
	}
	return false
}

// count returns how many of the names a struct has.
func count(value ast.Expr, names []string) int {
	n := 0
	for _, name := range names {
		if _, found, _ := node(value, fieldPath{name}); found != nil {
			n++
		}
	}
	return n
}

// unquoted returns a path as in the document: CUE quotes keys that are not identifiers.
func unquoted(p []string) fieldPath {
	plain := make(fieldPath, len(p))
	for i, step := range p {
		plain[i] = step
		if s, err := literal.Unquote(step); err == nil && strings.HasPrefix(step, `"`) {
			plain[i] = s
		}
	}
	return plain
}

// endsWithNames reports whether a path ends at the hidden list of an abort's
// header names, with which the schema finds duplicates.
func endsWithNames(p []string) bool {
	n := len(p) - 1
	return n >= 0 && p[n] == "_names" && fieldPath(p[:n]).general() == "spec.rules[].fault.abort"
}

// policySentence returns the sentence for an error inside a policy of a CUE
// package. There is no document that has the value, so it is taken from CUE's
// message. The sentence is empty if CUE's message should be used. worth is false
// for an error that only explains another.
func policySentence(at fieldPath, e errors.Error) (sentence string, worth bool) {
	format, args := e.Msg()
	message := e.Error()
	w, known := fields[at.general()]
	name := "a policy"
	if len(at) > 0 {
		name = at[len(at)-1]
	}
	switch {
	case strings.HasPrefix(format, notAllowed) || !known && len(at) > 0:
		f := unknownField(nil, at)
		return f.problem.Message, true
	case at.general() == destinationField && strings.Contains(message, needsOutbound):
		return name + " " + outboundOnly, true
	case strings.HasPrefix(format, isMissing):
		return name + " is missing", required(at.general())
	case strings.Contains(format, "does not satisfy") && w.needs != "":
		return name + " " + w.needs, true
	case strings.HasPrefix(format, "incomplete value"):
		return fmt.Sprintf("%s must be %s, but it has no value", name, w.must), true
	case strings.HasPrefix(format, "invalid value") || strings.HasPrefix(format, "conflicting values"):
		if strings.HasPrefix(format, "conflicting") && !strings.Contains(message, "mismatched types") {
			return "", true // the package sets two different values
		}
		shown := fmt.Sprint(args[0])
		if strings.Contains(shown, "\n") || len(shown) > 60 {
			shown = "this value"
		}
		if !strings.Contains(message, "mismatched types") {
			for _, l := range w.limits {
				if strings.Contains(message, l.marker) {
					return name + " " + strings.ReplaceAll(l.sentence, "%v", shown), true
				}
			}
		}
		return fmt.Sprintf("%s must be %s, not %s", name, w.must, shown), true
	}
	return "", true
}
