package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Documents are found where YAML has them, whatever stands round their markers.
func TestSplitDocuments(t *testing.T) {
	const one, two = "metadata: {name: one}\n", "metadata: {name: two}\n"
	for _, test := range []struct {
		name, file string
		want       []string
		lines      []int
	}{
		{"one", one, []string{"one"}, []int{1}},
		{"a marker first", "---\n" + one, []string{"one"}, []int{2}},
		{"comments before the marker", "# hello\n---\n" + one, []string{"one"}, []int{2 + 1}},
		{"two", one + "---\n" + two, []string{"one", "two"}, []int{1, 3}},
		{"a comment on the marker", one + "--- # next\n" + two, []string{"one", "two"}, []int{1, 3}},
		{"content on the marker", one + "--- {metadata: {name: two}}\n", []string{"one", "two"}, []int{1, 2}},
		{"an empty one between", one + "---\n# nothing\n---\n" + two, []string{"one", "two"}, []int{1, 5}},
		{"a marker at the end", one + "---\n", []string{"one"}, []int{1}},
		{"no line end", one + "---\n" + strings.TrimSpace(two), []string{"one", "two"}, []int{1, 3}},
		{"an end marker", one + "...\n---\n" + two, []string{"one", "two"}, []int{1, 4}},
		{"CR LF", "metadata: {name: one}\r\n---\r\nmetadata: {name: two}\r\n", []string{"one", "two"}, []int{1, 3}},
		{"dashes in a word", "metadata: {name: one}\n----: 1\n", []string{"one"}, []int{1}},
		{"indented dashes in a block", "metadata:\n  name: one\n  x: |\n    ---\n    y\n", []string{"one"}, []int{1}},
		{"JSON", `{"metadata": {"name": "one"}}`, []string{"one"}, []int{1}},
		{"no policy", "a: [\n", []string{""}, []int{1}},
		{"nothing", "# only this\n", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var names []string
			var lines []int
			for _, doc := range splitDocuments([]byte(test.file)) {
				names, lines = append(names, doc.name), append(lines, doc.line)
				if string(doc.text) != test.file[doc.start:doc.end] {
					t.Errorf("the text is not what is at %d to %d", doc.start, doc.end)
				}
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.lines, lines); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever the text, splitting it neither panics nor loses or moves a byte
// of a document, and putting a document in its own place changes no name.
func FuzzSplitDocuments(f *testing.F) {
	for _, seed := range []string{"", "---", "--- {a: 1}", "a: 1\n---\nb: 2\n", "{\"a\": 1}", "%YAML 1.2\n---\na: 1\n", "\xff\n---\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 4096 {
			return
		}
		docs := splitDocuments(file)
		at := 0
		for _, doc := range docs {
			if doc.start < at || doc.end < doc.start || doc.end > len(file) || string(file[doc.start:doc.end]) != string(doc.text) {
				t.Fatalf("document %d to %d after %d in %d bytes", doc.start, doc.end, at, len(file))
			}
			at = doc.end
		}
		for _, doc := range docs[:min(len(docs), 3)] {
			again := splitDocuments(replaceDocument(file, doc, doc.text))
			if len(again) != len(docs) {
				t.Fatalf("%d documents became %d", len(docs), len(again))
			}
		}
	})
}

// The flattened fields of a policy say where each difference is.
func TestCompareFields(t *testing.T) {
	from := `{"a": {"b": [1, {"c": "x"}]}, "gone": true}`
	to := `{"a": {"b": [1, {"c": "y"}, 0.5]}}`
	var got []string
	for _, field := range compareFields([]byte(from), []byte(to)) {
		got = append(got, field.Field+": "+string(field.Old)+" → "+string(field.New))
	}
	want := []string{`a.b[1].c: "x" → "y"`, `a.b[2]:  → 0.5`, `gone: true → `}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
