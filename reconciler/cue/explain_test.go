package cue

import (
	"slices"
	"testing"
)

// TestJSONSentences checks the problems of JSON files that encoding/json accepts or
// explains badly.
func TestJSONSentences(t *testing.T) {
	kind := func(text string) string {
		return `{"kind":"` + text + `","metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`
	}
	const half = " is only half of a UTF-16 surrogate pair, which is not a character; write the character itself"
	cue := newStock(t)
	for _, test := range []struct {
		text string
		want []string
	}{
		{kind(`\ud800`), []string{`policies/p.json:1:10: invalid JSON: \ud800` + half}},
		{kind(`a\\\uDC00\ud800`), []string{`policies/p.json:1:13: invalid JSON: \uDC00` + half}},
		{kind(`\ud83d\u0041`), []string{`policies/p.json:1:10: invalid JSON: \ud83d` + half}},
		{kind(`\ud83d\ude00\ud83d`), []string{`policies/p.json:1:22: invalid JSON: \ud83d` + half}},
		{kind(`\ud83d\ude00`), nil},
		{kind(`\\ud83d`), nil},
		{" \n", []string{`policies/p.json:1:2: invalid JSON: the file is empty; delete it, or give it another extension`}},
	} {
		s := sample{file: "p.json", text: test.text}
		if got := lines(ours(t, New("policies"), s).Errors); !slices.Equal(got, test.want) {
			t.Errorf("for %s\ngot  %q\nwant %q", test.text, got, test.want)
		}
		if valid, output := cue.ask(s); valid != (test.want == nil) {
			t.Errorf("stock cue: valid is %t for %s:\n%s", valid, test.text, output)
		}
	}
}
