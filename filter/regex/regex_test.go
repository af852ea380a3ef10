package regex

import (
	"bytes"
	"regexp"
	"regexp/syntax"
	"strings"
	"testing"
)

// whole compiles an expression by Go's regexp, so that it has to match the whole value.
func whole(t testing.TB, expression string) *regexp.Regexp {
	made, err := regexp.Compile(`\A(?:` + expression + `)\z`)
	if err != nil {
		made, err = regexp.Compile(`\A(?:` + expression + `\E)\z`)
	}
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// loaded compiles an expression, and reads the result as a filter does.
func loaded(t testing.TB, expression string) *Regex {
	t.Helper()
	made, err := Compile(expression)
	if err != nil {
		t.Fatal(err)
	}
	return reread(t, made)
}

func reread(t testing.TB, made *Regex) *Regex {
	t.Helper()
	data, err := made.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	read, err := Read(data)
	if err != nil {
		t.Fatalf("%x: %v", data, err)
	}
	if again, _ := read.AppendBinary(nil); !bytes.Equal(again, data) {
		t.Fatalf("%x is read as %x", data, again)
	}
	return read
}

// sets compiles an expression to sets of positions, whatever its automaton's size.
func sets(t testing.TB, expression string) *Regex {
	t.Helper()
	tree, err := syntax.Parse(whole(t, expression).String(), syntax.Perl)
	if err != nil {
		t.Fatal(err)
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		t.Fatal(err)
	}
	return reread(t, compileSets(translate(prog), ""))
}

var expressions = []string{
	``, `a`, `abc`, `/api/v[0-9]+/users/[^/]+`, `.*`, `(?s).*`, `.+`, `^$`, `^/a$`, `a|b|`, `|a`, `(|a)*`, `(|a)+`, `(a*)*`, `(?:)*`,
	`a{3}`, `a{2,}`, `a{2,4}`, `(ab?){2,3}`, `a*?b+?c??`, `(?U)a+`, `(?i)straße`, `(?i)k`, `(?i)[k-s]`, `(?i:ſ)x`, `(?i)Σ`, `(?m)^a$`,
	`(?m)(^a$\n?)*`, `(?m)a$.^b`, `(?ms)a$.^b`, `\ba\b`, `a\b.\bb`, `a\Bb`, `\B`, `\b`, `(a\b|b\B|[^ab]|\b.)*`, `\Aa\z`, `a\zb`, `(a|\Ab)*`,
	`\pL+`, `\p{Greek}+`, `\PN`, `[\pL\d_-]+`, `[^\pL]`, `\d\D\s\S\w\W`, `[[:alpha:]]+[[:^digit:]]`, `\x{FFFD}`, `[^a]`, `[\x{80}-\x{FFFF}]+`,
	`é+`, `日本.語`, `\x{10FFFF}`, `\Qa.b`, `\Qa.b\E+`, `[^\x00-\x{10FFFF}]`, `x[^\x00-\x{10FFFF}]`, `\C?`[:0], `(?P<name>x)y`, `.*foo.*bar`,
	`.*a.{3}`, `.*(a|b).{12}`, `(a?){20}a{20}`, `[a-z]{1,63}(\.[a-z]{1,63}){1,4}`, `(GET|PUT|POST|DELETE)`, `(foo|bar|baz)/[0-9]+`,
	`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, `(?i)(true|yes|on|1)`, `Bearer [A-Za-z0-9._~+/-]+=*`, `\x00*`, `[\0A]`, `[\0A]b`, `[\x00-\x7f]*`,
}

var values = []string{
	"", "a", "b", "c", "ab", "abc", "aa", "aaa", "aaaa", "aaaaa", "abab", "ababa", "/a", "/a\n", "a\n", "\n", "\na", "a\nb", "a\na", "a\na\n", "/api/v1/users/x",
	"/api/v12/users/", "/api/v1/users/x/y", "é", "éé", "\u00e9\xc3", "\xc3", "\xff", "\ufffd", "a\xffb", "\xe2\x82", "\xe2\x82\xac", "\xed\xa0\x80", "\xf4\x90\x80\x80",
	"STRASSE", "StraßE", "straẞe", "K", "k", "\u212a", "ſx", "sx", "Sx", "Σ", "σ", "ς", "α", "日本x語", "日本\xe6語", "\U0010ffff", "a.b", "a.bbb", "a.b\\E", "xy", "foobar",
	"xfooxbarx", "xfooxbar", "a b", "a b c", "_a", "a_", "1", "١", "Ж", "1a \tb-", "x9", "baaa", "xxbxxxxxxxxxxxx", strings.Repeat("a", 20), strings.Repeat("a", 41),
	"www.example.com", "www..com", "GET", "PUTT", "foo/12", "bar/", "123e4567-e89b-12d3-a456-426614174000", "TRUE", "On", "Bearer abc=", "Bearer =", "\x00", "\x00\x00", "A", "Ab", "\x00b",
	"a\u0300", "\u00a0", "ab\b", "日",
}

// TestMatch checks that both forms match what Go's regexp matches.
func TestMatch(t *testing.T) {
	for _, expression := range expressions {
		reference, compiled, positions := whole(t, expression), loaded(t, expression), sets(t, expression)
		for _, value := range values {
			want := reference.MatchString(value)
			if got := compiled.Match(value); got != want {
				t.Errorf("%q on %q: %v, want %v", expression, value, got, want)
			}
			if got := positions.Match(value); got != want {
				t.Errorf("%q, as sets, on %q: %v, want %v", expression, value, got, want)
			}
			if want && !strings.HasPrefix(value, compiled.Prefix()) {
				t.Errorf("%q matches %q, which does not begin with %q", expression, value, compiled.Prefix())
			}
		}
	}
}
