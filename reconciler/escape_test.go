package reconciler_test

import (
	"strconv"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/boifi/hfi/reconciler"
)

func TestEscape(t *testing.T) {
	for text, want := range map[string]string{
		"plain, Übung 日本 \uFFFD": "plain, Übung 日本 \uFFFD",
		"\x1b[31m\x07\x7f":       `\u001b[31m\u0007\u007f`,
		"CSI \u009b31m":          `CSI \u009b31m`,
		"line\r\nbreak":          `line\u000d\u000abreak`,
		"\u202eabc\u2066":        `\u202eabc\u2066`,
		"bad\xff\x9b":            `bad\xff\x9b`,
		`back\slash`:             `back\slash`,
	} {
		if got := reconciler.Escape(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

// An escaped name is fit to be shown, and leads back to the name.
func FuzzEscapeName(f *testing.F) {
	for _, name := range []string{"a.yaml", `a\u0085`, "a\u0085", `\\`, `\`, "\\\u0085", "\xff\xfe", `\xff`, `quo"te`, "\u2028"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		escaped := reconciler.EscapeName(name)
		if !utf8.ValidString(escaped) {
			t.Errorf("%q escaped is not UTF-8: %q", name, escaped)
		}
		for _, r := range escaped {
			if unicode.IsControl(r) {
				t.Errorf("%q escaped has %U", name, r)
			}
		}
		var back []byte
		for rest := escaped; rest != ""; {
			r, isMultibyte, tail, err := strconv.UnquoteChar(rest, 0)
			if err != nil {
				t.Fatalf("%q escaped is %q, which cannot be decoded: %v", name, escaped, err)
			}
			if r < utf8.RuneSelf || !isMultibyte {
				back = append(back, byte(r))
			} else {
				back = utf8.AppendRune(back, r)
			}
			rest = tail
		}
		if string(back) != name {
			t.Errorf("%q escaped is %q, which is %q", name, escaped, back)
		}
	})
}
