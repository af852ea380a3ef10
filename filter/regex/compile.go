//go:build !wasm

package regex

import (
	"fmt"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// The limits on what an expression compiles to are far above what paths and headers need.
// They bound what an expression costs the daemon, which compiles it, and each filter,
// which holds it.
const (
	// maxSteps limits the steps of an expression: see steps.
	maxSteps = 1000
	// maxSize limits the size, in bytes, of a compiled expression in a filter.
	maxSize = 64 << 10
)

const (
	// smallRows is the size, in bytes, of the states of an automaton up to which it is
	// preferred, because it is faster. Above, it is chosen if it takes less memory, or if sets of positions would
	// be too slow for values of maxHeaders bytes, Envoy's default limit.
	smallRows  = 2 << 10
	maxHeaders = 60 << 10
)

// Compile compiles an expression in the syntax of RE2. It has to match the whole value.
func Compile(expression string) (*Regex, error) {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	if n := steps(tree); n > maxSteps {
		return nil, fmt.Errorf("regex %q: it has %d steps, with repetitions multiplied out; the limit is %d", expression, n, maxSteps)
	}
	whole, err := syntax.Parse(`\A(?:`+expression+`)\z`, syntax.Perl)
	if err != nil {
		// The expression has a \Q without \E.
		whole, err = syntax.Parse(`\A(?:`+expression+`\E)\z`, syntax.Perl)
	}
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	prog, err := syntax.Compile(whole.Simplify())
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	translated := translate(prog)
	made, err := compile(translated, literalPrefix(tree))
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	made.effort = len(prog.Inst) + translated.effort
	return made, nil
}

// compile compiles a program to the form that suits it.
func compile(program *program, prefix string) (*Regex, error) {
	if classes := len(program.classes.kinds); classes > maxClasses {
		return nil, fmt.Errorf("it distinguishes %d classes of characters; the limit is %d", classes, maxClasses)
	}
	rows, sets := compileRows(program), compileSets(program, prefix)
	switch {
	case rows != nil && (2*len(rows.rows) <= smallRows || sets == nil || sets.longest < maxHeaders || rows.Size() <= sets.Size()):
		return rows, nil
	case sets == nil || sets.Size() > maxSize:
		return nil, fmt.Errorf("it compiles to more than the limit of %d bytes", maxSize)
	}
	return sets, nil
}

// compileRows compiles a program to an automaton. It returns nil if that gets too large.
func compileRows(program *program) *Regex {
	states := determine(program)
	if states == nil {
		return nil
	}
	states.minimize()
	prefix := states.skipPrefix(program.classes)
	made := states.regex(prefix, program.classes)
	if made != nil {
		made.limit()
	}
	return made
}

// steps returns an upper estimate of the number of instructions that an expression
// compiles to. The parser limits nested repetitions to 1,000 in total.
func steps(tree *syntax.Regexp) int {
	n := 1
	switch tree.Op {
	case syntax.OpLiteral:
		return len(tree.Rune)
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
