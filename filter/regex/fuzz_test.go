package regex

import (
	"math/rand/v2"
	"regexp"
	"regexp/syntax"
	"runtime"
	"strings"
	"testing"
	"unicode"
)

// agrees fails the test unless an expression matches what Go's regexp matches.
func agrees(t *testing.T, expression string, values ...string) {
	t.Helper()
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		if _, err := Compile(expression); err == nil {
			t.Fatalf("Compile(%q) is not refused", expression)
		}
		return
	}
	if surrogate(tree) {
		return
	}
	made, err := Compile(expression)
	if err != nil {
		if !strings.Contains(err.Error(), "limit") && !strings.Contains(err.Error(), string(syntax.ErrLarge)) {
			t.Fatalf("Compile(%q): %v", expression, err)
		}
		return
	}
	// The result of a parse can be too deep for a group around it.
	reference, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	if err != nil {
		reference, err = regexp.Compile(`\A(?:` + expression + `\E)\z`)
	}
	if err != nil {
		t.Fatal(err)
	}
	forms := []*Regex{reread(t, made), sets(t, expression)}
	for _, value := range values {
		want := reference.MatchString(value)
		for _, form := range forms {
			if got := form.Match(value); got != want && len(value) <= form.MaxValue() {
				t.Fatalf("%q on %q: %v, want %v", expression, value, got, want)
			}
		}
		if want && !strings.HasPrefix(value, made.Prefix()) {
			t.Fatalf("%q matches %q, which does not begin with %q", expression, value, made.Prefix())
		}
	}
}

// surrogate reports whether an expression contains a surrogate. No text contains one, but
// Go's regexp lets a literal one match U+FFFD in some expressions.
func surrogate(tree *syntax.Regexp) bool {
	if tree.Op == syntax.OpLiteral {
		for _, char := range tree.Rune {
			if unicode.Is(unicode.Cs, char) {
				return true
			}
		}
	}
	for _, sub := range tree.Sub {
		if surrogate(sub) {
			return true
		}
	}
	return false
}

func FuzzMatch(f *testing.F) {
	for i, expression := range expressions {
		f.Add(expression, values[i%len(values)])
	}
	f.Fuzz(func(t *testing.T, expression, value string) {
		if len(expression) > 1000 || len(value) > 1000 {
			return
		}
		agrees(t, expression, value)
	})
}

// TestRandomExpressions checks the agreement with Go's regexp on expressions and values
// from few characters, so that many of them match.
func TestRandomExpressions(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	var expression func(depth int) string
	expression = func(depth int) string {
		if depth == 0 {
			return pick("a", "b", "é", "\n", "_", ".", "[ab]", "[^a]", `\x{FFFD}`, `\w`, `\W`, `\b`, `\B`, "^", "$", `\A`, `\z`, "", "[é-\U0010ffff]", `\pL`, "K", "ſ")
		}
		sub := func() string { return expression(depth - 1) }
		switch random.IntN(8) {
		case 0, 1, 2:
			return sub() + sub()
		case 3, 4:
			return "(" + sub() + "|" + sub() + ")"
		case 5:
			return "(?:" + sub() + ")" + pick("*", "+", "?", "*?", "{2}", "{0,2}", "{1,}")
		case 6:
			return "(?" + pick("i", "s", "m", "U", "ims", "-s", "im") + ":" + sub() + ")"
		}
		return sub()
	}
	var values []string
	for range 200 {
		value := ""
		for range random.IntN(7) {
			value += pick("a", "a", "b", "b", "é", "\n", "_", "\xff", "\xc3", "\xe2\x82", "\ufffd", "k", "S", "\u212a", " ")
		}
		values = append(values, value)
	}
	for range 400 {
		agrees(t, expression(1+random.IntN(5)), values...)
	}
}

// FuzzRead checks that no data makes a filter fail, or take memory or time beyond bounds.
func FuzzRead(f *testing.F) {
	for _, expression := range expressions {
		for _, made := range []*Regex{loaded(f, expression), sets(f, expression)} {
			data, _ := made.AppendBinary(nil)
			f.Add(data, "abc")
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, value string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		made, err := Read(data)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(10_000+20*len(data)) {
			t.Fatalf("reading %d bytes allocates %d", len(data), took)
		}
		if err != nil {
			return
		}
		for _, value := range []string{value, made.Prefix() + value, ""} {
			made.Match(value)
		}
		reread(t, made)
	})
}
