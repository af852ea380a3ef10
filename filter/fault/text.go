package fault

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/boifi/hfi/schema"
)

// text is a condition on a path or on a header's value.
type text struct {
	how comparison
	// value is what exact and prefix compare with. For a regex it is what
	// every match of it begins with, and may be empty.
	value string
	regex *regexp.Regexp
	// longest is how many bytes a value may have that regex is run on.
	longest int
}

type comparison uint8

const (
	// always holds for every value, and, for a header, where it is present.
	always comparison = iota
	exact
	prefix
	regex
	// absent holds for no value: a header must not be there.
	absent
)

// holds says whether the condition holds for a value that is there.
func (t *text) holds(value string) bool {
	switch t.how {
	case always:
		return true
	case exact:
		return value == t.value
	case prefix:
		return strings.HasPrefix(value, t.value)
	case regex:
		// Most values are refused without running the expression.
		return strings.HasPrefix(value, t.value) && len(value) <= t.longest && t.regex.MatchString(value)
	}
	return false
}

// compileText makes a condition of a comparison that has exactly one way set.
func (c *compiler) compileText(match schema.StringMatch) (text, error) {
	set := 0
	var made text
	if match.Exact != nil {
		set++
		made = text{how: exact, value: *match.Exact}
	}
	if match.Prefix != nil {
		set++
		made = text{how: prefix, value: *match.Prefix}
		if *match.Prefix == "" {
			made.how = always
		}
	}
	if match.Regex != nil {
		set++
		var err error
		if made, err = c.compileRegex(*match.Regex); err != nil {
			return text{}, err
		}
	}
	if set != 1 {
		return text{}, errors.New("it wants exactly one of exact, prefix and regex that this filter knows")
	}
	return made, nil
}

// What expressions can cost is bounded, far above what paths and headers ask
// for: without that one policy, by mistake, could end a VM for want of memory,
// which fails requests, or keep a thread of the proxy from its other requests.
const (
	// maxSteps bounds one expression.
	maxSteps = 1000
	// maxWork bounds the steps of an expression times the bytes of the value
	// that it is run on: a match takes up to 40 ns for each in Envoy's V8. A
	// value that is longer does not match.
	maxWork = 1_500_000
	// maxAllSteps bounds the expressions of a program together, each with
	// baseSteps more than its own. A step takes up to 230 bytes.
	maxAllSteps = 200_000
	baseSteps   = 5
)

// compileRegex makes a condition of an expression, each expression once.
func (c *compiler) compileRegex(expression string) (text, error) {
	if made, ok := c.regexes[expression]; ok {
		return made.text, nil
	}
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return text{}, fmt.Errorf("regex %q: %w", expression, err)
	}
	n := steps(tree)
	if n > maxSteps {
		return text{}, fmt.Errorf("regex %q: it has %d steps, repetitions multiplied out, and at most %d are carried out", expression, n, maxSteps)
	}
	if all := c.steps + n + baseSteps; all > maxAllSteps {
		return text{}, fmt.Errorf("regex %q: with it the regexes of this workload's policies have %d steps together, and at most %d are carried out",
			expression, all, maxAllSteps)
	}
	whole, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	if err != nil {
		// A \Q that the expression leaves open swallows the rest.
		whole, err = regexp.Compile(`\A(?:` + expression + `\E)\z`)
	}
	if err != nil {
		return text{}, fmt.Errorf("regex %q: %w", expression, err)
	}
	made := compiled{steps: n + baseSteps, text: text{how: regex, value: literalPrefix(tree), regex: whole, longest: maxWork / max(n, 1)}}
	c.regexes[expression] = made
	c.steps += made.steps
	c.fresh = append(c.fresh, expression)
	return made.text, nil
}

// compiled is an expression's condition, and what it counts for.
type compiled struct {
	text  text
	steps int
}

// giveBack forgets the expressions of the policy at hand that no policy before
// it has: it is left out, and must take nothing from those that come after.
func (c *compiler) giveBack() {
	for _, expression := range c.fresh {
		c.steps -= c.regexes[expression].steps
		delete(c.regexes, expression)
	}
}

// steps is about how many instructions an expression compiles to, and no fewer;
// of the ranges of a class eight count as much as one. The parser sees to it
// that repetitions within each other are at most 1,000 in all.
func steps(tree *syntax.Regexp) int {
	n := 1
	switch tree.Op {
	case syntax.OpLiteral:
		return len(tree.Rune)
	case syntax.OpCharClass:
		// Rune has the first and the last of each range.
		return 1 + len(tree.Rune)/16
	case syntax.OpRepeat:
		return (1 + steps(tree.Sub[0])) * max(1, tree.Min, tree.Max)
	case syntax.OpCapture, syntax.OpStar:
		n = 2
	case syntax.OpAlternate:
		n = len(tree.Sub)
	}
	for _, sub := range tree.Sub {
		n += steps(sub)
	}
	return n
}

// literalPrefix is what every string that the expression matches whole
// begins with. Regexp.LiteralPrefix would find none behind a "^", which many
// write out of habit, and would ask for one more compilation.
func literalPrefix(tree *syntax.Regexp) string {
	switch tree.Op {
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 {
			return ""
		}
		literal := string(tree.Rune)
		// The expression takes bytes that are not UTF-8 for this rune.
		before, _, _ := strings.Cut(literal, string(utf8.RuneError))
		return before
	case syntax.OpCapture:
		return literalPrefix(tree.Sub[0])
	case syntax.OpConcat:
		for _, sub := range tree.Sub {
			switch sub.Op {
			case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEmptyMatch:
				// A match of the whole begins where the text does.
			default:
				return literalPrefix(sub)
			}
		}
	}
	return ""
}
