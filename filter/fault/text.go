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

// text is a condition on a path or on the value of a header.
type text struct {
	how comparison
	// value is the value for exact and prefix. For a regex it is a prefix of every
	// match, which may be empty.
	value string
	regex *regexp.Regexp
	// longest is the maximum length, in bytes, of a value that regex is run on.
	longest int
}

type comparison uint8

const (
	// always holds for every value. A header must be present.
	always comparison = iota
	exact
	prefix
	regex
	// absent holds for no value: a header must not be present.
	absent
)

// holds reports whether the condition holds for a value.
func (t *text) holds(value string) bool {
	switch t.how {
	case always:
		return true
	case exact:
		return value == t.value
	case prefix:
		return strings.HasPrefix(value, t.value)
	case regex:
		// The prefix rejects most values without running the expression.
		return strings.HasPrefix(value, t.value) && len(value) <= t.longest && t.regex.MatchString(value)
	}
	return false
}

// compileText compiles a comparison, of which exactly one field must be set.
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
		return text{}, errors.New("exactly one of exact, prefix and regex must be set, and this filter must support it")
	}
	return made, nil
}

// The limits on the cost of expressions are far above what paths and headers need.
// Without limits, a policy could by mistake exhaust the memory of a VM, which fails
// requests, or block a worker thread of Envoy.
const (
	// maxSteps limits the steps of one expression.
	maxSteps = 1000
	// maxWork limits the steps of an expression times the bytes of the value that it
	// is run on. In Envoy's V8 a match takes up to 40 ns for each step and byte. A
	// longer value does not match.
	maxWork = 1_500_000
	// maxAllSteps limits the steps of all expressions of a program, where each counts
	// baseSteps more than it has. A step takes up to 230 bytes.
	maxAllSteps = 200_000
	baseSteps   = 5
)

// compileRegex compiles an expression. Equal expressions are compiled once.
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
		return text{}, fmt.Errorf("regex %q: it has %d steps, with repetitions multiplied out; the limit is %d", expression, n, maxSteps)
	}
	if all := c.steps + n + baseSteps; all > maxAllSteps {
		return text{}, fmt.Errorf("regex %q: it increases the steps of all regexes for this workload to %d; the limit is %d",
			expression, all, maxAllSteps)
	}
	whole, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	if err != nil {
		// The expression has a \Q without \E.
		whole, err = regexp.Compile(`\A(?:` + expression + `\E)\z`)
	}
	if err != nil {
		return text{}, fmt.Errorf("regex %q: %w", expression, err)
	}
	made := compiled{steps: n + baseSteps, text: text{how: regex, value: literalPrefix(tree), regex: whole, longest: maxWork / max(n, 1)}}
	c.regexes[expression] = made
	c.steps += made.steps
	c.added = append(c.added, expression)
	return made.text, nil
}

// compiled is a compiled expression and its steps, including baseSteps.
type compiled struct {
	text  text
	steps int
}

// rollback removes the expressions that the current policy has added, because the
// policy is skipped and must not count against the limit.
func (c *compiler) rollback() {
	for _, expression := range c.added {
		c.steps -= c.regexes[expression].steps
		delete(c.regexes, expression)
	}
}

// steps returns an upper estimate of the number of instructions that an expression
// compiles to, where eight ranges of a class count as one. The parser limits nested
// repetitions to 1,000 in total.
func steps(tree *syntax.Regexp) int {
	n := 1
	switch tree.Op {
	case syntax.OpLiteral:
		return len(tree.Rune)
	case syntax.OpCharClass:
		// Rune has two runes for each range.
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

// literalPrefix returns a prefix of every string that the whole expression matches.
// Regexp.LiteralPrefix would find none after "^", which is common, and would require
// another compilation.
func literalPrefix(tree *syntax.Regexp) string {
	switch tree.Op {
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 {
			return ""
		}
		literal := string(tree.Rune)
		// The expression also matches bytes that are not UTF-8 with this rune.
		before, _, _ := strings.Cut(literal, string(utf8.RuneError))
		return before
	case syntax.OpCapture:
		return literalPrefix(tree.Sub[0])
	case syntax.OpConcat:
		for _, sub := range tree.Sub {
			switch sub.Op {
			case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEmptyMatch:
				// Matches the start of the text anyway.
			default:
				return literalPrefix(sub)
			}
		}
	}
	return ""
}
