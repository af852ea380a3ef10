package cue

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"cuelang.org/go/cue/ast"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// accepted reports whether an engine accepts a sample's documents between other valid documents.
func accepted(t testing.TB, e *engine, s sample) bool {
	t.Helper()
	var documents []ast.Expr
	for _, each := range []sample{{file: "a.yaml", text: small("a", 1)}, s, {file: "b.yaml", text: small("b", 1)}} {
		decoded, problem := decode(each.file, []byte(each.text), New("").Limits)
		if problem != nil {
			t.Fatalf("decoding %q: %v", each.text, problem)
		}
		documents = append(documents, decoded...)
	}
	e.used = 0
	valid, err := e.accept(documents)
	if err != nil {
		t.Fatal(err)
	}
	return valid
}

// agreeOn compares plain data with CUE's evaluation: a document is accepted among
// others exactly if it is accepted alone, and plain returns the policy that CUE
// returns. agreeOn reports whether the document is plain data.
func agreeOn(t *testing.T, e *engine, s sample) bool {
	t.Helper()
	limits := New("").Limits
	documents, problem := decode(s.file, []byte(s.text), limits)
	if problem != nil || len(documents) != 1 {
		return false
	}
	text, ok := plain(nil, documents[0])
	if !ok {
		return false
	}
	e.used = 0
	evaluated, invalid, err := e.check(documents[0])
	if err != nil {
		t.Fatal(err)
	}
	if together := accepted(t, e, s); together != (invalid == nil) {
		t.Errorf("accepted among others: %t, alone: %v\n%s", together, invalid, s.text)
	}
	if invalid != nil {
		return true
	}
	want, err := schema.Parse(evaluated)
	if err != nil {
		t.Fatalf("%v\n%s", err, evaluated)
	}
	if got, err := schema.Parse(text); err != nil || string(got.Canonical()) != string(want.Canonical()) {
		t.Errorf("as plain data it is %s (%v), CUE's value is %s\n%s", text, err, evaluated, s.text)
	}
	return true
}

// TestManyAtOnce checks that evaluating many documents at once gives the verdicts
// of evaluating each alone: for the samples, and for 1,500 random mutations of
// them (30,000 with HFI_SLOW=1).
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	count := 1500
	if testtool.Slow() {
		count = 30_000
	}
	r := rand.New(rand.NewPCG(seed(t), 0))
	e := &engine{}
	var corpus []sample
	plainData := 0
	check := func(s sample) {
		if agreeOn(t, e, s) {
			plainData++
		}
	}
	for _, s := range samples {
		if s.isCUE() {
			continue
		}
		check(s)
		if len(s.text) < 2000 {
			corpus = append(corpus, s)
		}
	}
	if plainData < 200 {
		t.Errorf("only %d samples are plain data", plainData)
	}
	for range count {
		s := corpus[r.IntN(len(corpus))]
		s.text = mutate(r, s.text)
		check(s)
	}
	if plainData < count/4 {
		t.Errorf("only %d of %d mutations are plain data", plainData, count)
	}
}

// TestPlainData checks which documents are plain data. A text that could be read
// in two ways is not.
func TestPlainData(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ file, text, want string }{
		{"p.yaml", "a: {b: [1, 12.5, x, 'y', \"z\\n\", true, null, -]}", `{"a":{"b":[1,12.5,"x","y","z\n",true,null,"-"]}}`},
		{"p.yaml", "a: |\n  two\n  lines\n_b: é\n'#c': 0\n", `{"a":"two\nlines\n","_b":"é","#c":0}`},
		{"p.json", `{"a":"\u00e9\u2028\"\\<","b c":0.0001,"if":{}}`, "{\"a\":\"é\\u2028\\\"\\\\\\u003c\",\"b c\":0.0001,\"if\":{}}"},
		{"p.yaml", "a: 1\na: 1\n", ""},
		{"p.json", `{"a":1,"a":1}`, ""},
		{"p.json", `{"\u212aey":1}`, ""}, // the Kelvin sign, which CUE normalises to K
		{"p.yaml", "a: -1\n", ""},
		{"p.yaml", "a: 1e2\n", ""},
		{"p.yaml", "a: 0x1F\n", ""},
		{"p.yaml", "a: 0o17\n", ""},
		{"p.yaml", "a: 1_000\n", ""},
		{"p.yaml", "a: .5\n", ""},
		{"p.yaml", "a: 5.\n", ""},
		{"p.yaml", "a: .inf\n", ""},
		{"p.yaml", "a: 0.00010000000000000000001\n", ""},
		{"p.yaml", "a: !!binary aGVsbG8=\n", ""},
		{"p.json", "{" + strings.TrimSuffix(headers(maxPlainFields+1), ",") + "}", ""},
	} {
		documents, problem := decode(test.file, []byte(test.text), New("").Limits)
		if problem != nil {
			t.Errorf("%s: %v", test.text, problem)
			continue
		}
		text, ok := plain(nil, documents[0])
		if got := string(text); ok != (test.want != "") || ok && got != test.want {
			t.Errorf("%s is %s, plain: %t; want %s", test.text, got, ok, test.want)
		}
	}
}

// TestInvalidAmongMany checks that a large commit has errors for its invalid files
// only, and the same errors that each file has alone.
func TestInvalidAmongMany(t *testing.T) {
	t.Parallel()
	const count = 600
	files := manyPolicies(count)
	bad := map[int]string{
		7:   small("p7", 0),
		100: strings.Replace(small("p100", 1), "service", "servce", 1),
		101: "metadata: [\n",
		333: "\n",
		599: small("p599", 1) + "---\n" + strings.Replace(small("extra", 1), "percentage: 50", "percentage: 150", 1),
	}
	var want []string
	for i, text := range bad {
		file := content(fmt.Sprintf("policies/p%d.yaml", i), text)
		files[i] = file
		want = append(want, lines(apply(t, New("policies"), commit("c", "", file)).Errors)...)
	}
	verdict := apply(t, New("policies"), commit("c", "", files...))
	got := lines(verdict.Errors)
	slices.Sort(want)
	slices.Sort(got)
	if verdict.Set != nil || !slices.Equal(got, want) {
		t.Errorf("the errors are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w := New("policies")
	apply(t, w, commit("c1", "", manyPolicies(count)...))
	var rest []schema.File
	for i := range bad {
		rest = append(rest, gone(files[i].Path))
	}
	verdict = apply(t, w, commit("c2", "c1", rest...))
	if verdict.Set == nil || verdict.Set.Len() != count-len(bad) {
		t.Errorf("without the bad files: %v", lines(verdict.Errors))
	}
}
