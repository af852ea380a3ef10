package cue

import (
	"fmt"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/errors"
)

// at names a line of the limits, or the file if the line is not known.
func (f *limitsFile) at(line int) string {
	if line == 0 {
		return f.name()
	}
	return fmt.Sprintf("%s:%d", f.name(), line)
}

// comparisons are the sentences for a value that is out of a bound, by the bound's
// operator; the longer operators first.
var comparisons = []struct{ operator, sentence string }{
	{"<=", "%s is more than the limit of %s"},
	{">=", "%s is less than the limit of %s"},
	{"!=", "%s is not allowed by a limit"},
	{"=~", "%s does not match the limit %s"},
	{"!~", "%s is not allowed by a limit: it matches %s"},
	{"<", "%s is not less than the limit of %s"},
	{">", "%s is not more than the limit of %s"},
}

// lineOf returns the line of the limit that errors name, or 0.
func (f *limitsFile) lineOf(same []errors.Error) int {
	for _, e := range same {
		if line, _ := f.place(errors.Positions(e)); line > 0 {
			return line
		}
	}
	return 0
}

// complaint returns the sentence for the errors of a field. The value is nil if it is not
// known; line is that of the limit.
func (f *limitsFile) complaint(at fieldPath, value ast.Expr, same []errors.Error, line int) string {
	name := last(at)
	if endsInList(at[:max(len(at)-1, 0)]) {
		name = "this item"
	}
	if value != nil && isDisjunction(same) {
		if allowed := alternatives(value, same); len(allowed) > 0 {
			return fmt.Sprintf("%s is not one that a limit allows: %s", show(value), strings.Join(allowed, ", "))
		}
	}
	e := same[len(same)-1]
	format, args := e.Msg()
	shown := "this value"
	switch {
	case value != nil:
		shown = show(value)
	case strings.HasPrefix(format, "invalid value") && len(args) > 0:
		if text := fmt.Sprint(args[0]); len(text) <= 60 && !strings.Contains(text, "\n") {
			shown = text
		}
	}
	switch {
	case strings.HasPrefix(format, isMissing) || strings.HasPrefix(format, "incomplete value"):
		return name + " is missing: a limit requires it"
	case len(at) > 0 && (strings.HasPrefix(format, notAllowed) || strings.HasPrefix(format, "explicit error")):
		return name + " is not allowed by a limit"
	case strings.HasPrefix(format, "invalid value") && strings.Contains(format, "out of bound") && len(args) > 1:
		bound := fmt.Sprint(args[1])
		for _, c := range comparisons {
			if text, ok := strings.CutPrefix(bound, c.operator); ok {
				if strings.Count(c.sentence, "%s") == 1 {
					return fmt.Sprintf(c.sentence, shown)
				}
				return fmt.Sprintf(c.sentence, shown, strings.TrimSpace(text))
			}
		}
	case strings.HasPrefix(format, "conflicting values") && value != nil && !strings.Contains(e.Error(), "mismatched types"):
		if wanted := alternatives(value, same); len(wanted) == 1 {
			return fmt.Sprintf("%s is not what a limit requires: %s", shown, wanted[0])
		}
	case !isOfCUE(format):
		// The text is that of an error(…) in the limits.
		return fmt.Sprintf("%s is not allowed by a limit: %.200s", shown, firstLine(withoutPath(e)))
	}
	subject := "this value"
	if len(at) == 0 {
		subject = "this policy"
	}
	return fmt.Sprintf("%s is against a limit: %s", subject, f.source(line))
}

// isOfCUE reports whether a message is one of CUE's own about a value.
func isOfCUE(format string) bool {
	return slices.ContainsFunc([]string{"invalid value", "conflicting values", "cannot use", "error in call", "%d errors in", "explicit error", "invalid ", "undefined ", "reference "},
		func(start string) bool { return strings.HasPrefix(format, start) })
}

func isDisjunction(same []errors.Error) bool {
	return slices.ContainsFunc(same, func(e errors.Error) bool {
		format, _ := e.Msg()
		return strings.Contains(format, "empty disjunction")
	})
}

// alternatives returns the values that conflict with the given one, sorted.
func alternatives(value ast.Expr, same []errors.Error) []string {
	var allowed []string
	for _, e := range same {
		format, args := e.Msg()
		if !strings.HasPrefix(format, "conflicting values") || len(args) < 2 {
			continue
		}
		for _, arg := range args[:2] {
			if text := fmt.Sprint(arg); text != show(value) && len(text) <= 60 && !slices.Contains(allowed, text) {
				allowed = append(allowed, text)
			}
		}
	}
	slices.Sort(allowed)
	return allowed
}

// source returns the text of a line of the limits, without the opening of what follows.
func (f *limitsFile) source(line int) string {
	lines := strings.Split(f.Text, "\n")
	if line < 1 || line > len(lines) {
		return "see the limits"
	}
	text := strings.Join(strings.Fields(lines[line-1]), " ")
	if runes := []rune(text); len(runes) > 80 {
		text = string(runes[:80]) + "…"
	}
	return text
}

// sentenceForPackage returns the sentence for an error in a policy of a package, or "" if
// the error is not one of these limits.
func (f *limitsFile) sentenceForPackage(at fieldPath, e errors.Error) string {
	line, _ := f.place(errors.Positions(e))
	format, _ := e.Msg()
	switch {
	case line == 0 || strings.HasPrefix(format, notAllowed):
		return ""
	case strings.HasPrefix(format, "conflicting values"):
		return fmt.Sprintf("%s is against a limit: %s (%s)", last(at), firstLine(withoutPath(e)), f.at(line))
	case strings.Contains(format, "empty disjunction"):
		return fmt.Sprintf("%s is not one that a limit allows: %s (%s)", last(at), f.source(line), f.at(line))
	}
	return fmt.Sprintf("%s (%s)", f.complaint(at, nil, []errors.Error{e}, line), f.at(line))
}
