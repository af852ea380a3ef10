package reconciler

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape makes a text from a commit, or from anybody else, fit to be shown:
// control characters, also those from U+0080 on and those that change the
// direction of writing, become \u and their number, and bytes that are not
// UTF-8 \x and theirs. A terminal or a log that gets such characters obeys them.
func Escape(text string) string { return escape(text, false) }

// EscapeName is Escape for a name that identifies something. It doubles
// backslashes, so that different names stay different.
func EscapeName(name string) string { return escape(name, true) }

func escape(text string, backslashes bool) string {
	if plain(text, backslashes) {
		return text
	}
	var b strings.Builder
	for i, r := range text {
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case controls(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		case r == '\\' && backslashes:
			b.WriteString(`\\`)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// plain says whether there is nothing to escape in a text, as in most.
func plain(text string, backslashes bool) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return controls(r) || backslashes && r == '\\'
	})
}

// controls says whether a character does something instead of being shown.
func controls(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}
