package http

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// escapeControls writes the characters of a JSON text that change how a
// terminal shows it as \uXXXX, which is equivalent: encoding/json leaves those
// after U+007E as they are.
func escapeControls(text []byte) []byte {
	var escaped []byte
	copied := 0
	for at := 0; at < len(text); {
		if text[at] < 0x7f {
			at++
			continue
		}
		char, size := utf8.DecodeRune(text[at:])
		if unicode.Is(unicode.Cc, char) || unicode.Is(unicode.Bidi_Control, char) {
			escaped = fmt.Appendf(append(escaped, text[copied:at]...), `\u%04x`, char)
			copied = at + size
		}
		at += size
	}
	if copied == 0 {
		return text
	}
	return append(escaped, text[copied:]...)
}
