package cue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

const team = "policies/team/team.cue"

// teamText is a package that imports a definition from another folder.
const (
	teamText = "package team\n\nimport (\n\t\"example.com/policies/shared\"\n\t\"github.com/boifi/hfi/schema\"\n)\n\npolicies: schema.#Policies\npolicies: {\n\tfor i in [\"a\", \"b\"] {\n\t\t\"team-\\(i)\": spec: rules: [{fault: delay_ms: shared.slow}]\n\t}\n}\n"
	shared1  = "package shared\n\nslow: 100\n"
	shared2  = "package shared\n\nslow: 200\n"
)

func names(verdict *schema.Verdict) []string {
	var all []string
	if verdict.Set != nil {
		for _, entry := range verdict.Set.Entries() {
			all = append(all, entry.Name())
		}
	}
	return all
}

func wantSet(t *testing.T, verdict *schema.Verdict, policies ...string) {
	t.Helper()
	if len(verdict.Errors) > 0 {
		t.Fatalf("errors: %q", lines(verdict.Errors))
	}
	if got := names(verdict); !slices.Equal(got, policies) {
		t.Fatalf("policies %q, want %q", got, policies)
	}
}

// wantErrors requires one error for each text, in order, that contains it.
func wantErrors(t *testing.T, verdict *schema.Verdict, texts ...string) {
	t.Helper()
	got := lines(verdict.Errors)
	if verdict.Set != nil || len(got) != len(texts) {
		t.Fatalf("a set: %t, %d errors, want %d:\n%s", verdict.Set != nil, len(got), len(texts), strings.Join(got, "\n"))
	}
	for i, text := range texts {
		if !strings.Contains(got[i], text) {
			t.Errorf("error %d is %q, want %q in it", i, got[i], text)
		}
	}
}

// TestDeltas applies a sequence of commits. Only changed files are read, and each
// verdict is that of the whole commit.
func TestDeltas(t *testing.T) {
	w := New("policies")
	module := content("cue.mod/module.cue", testModule)
	own := content(schemaFile, schema.CUE)
	a, b := content("policies/a.yaml", small("a", 1)), content("policies/deep/er/b.json", `{"metadata":{"name":"b"},"spec":{"rules":[{"fault":{"delay_ms":1}}]}}`)
	full := []schema.File{module, own, a, b, content(team, teamText), content("shared/s.cue", shared1)}

	before := reads.Load()
	wantSet(t, apply(t, w, commit("c1", "", full...)), "a", "b", "team-a", "team-b")
	if got := reads.Load() - before; got != int64(len(full)) {
		t.Errorf("%d files were read, want %d", got, len(full))
	}
	if w.Base() != "c1" {
		t.Errorf("the base is %q", w.Base())
	}

	before = reads.Load()
	wantSet(t, apply(t, w, commit("c2", "", full...)), "a", "b", "team-a", "team-b")
	if got := reads.Load() - before; got != 0 {
		t.Errorf("a full listing of the same files read %d of them", got)
	}

	before = reads.Load()
	wantSet(t, apply(t, w, commit("c3", "c2", content("policies/a.yaml", small("a", 7)))), "a", "b", "team-a", "team-b")
	if got := reads.Load() - before; got != 1 {
		t.Errorf("one change read %d files", got)
	}

	// An invalid commit is applied; the other files are kept.
	wantErrors(t, apply(t, w, commit("c4", "c3", content("policies/a.yaml", small("a", 0)))), "policies/a.yaml:9:19: spec.rules[0].fault.delay_ms")
	wantErrors(t, apply(t, w, commit("c5", "c4", content("policies/n.yaml", small("n", 1)))), "policies/a.yaml:9:19: spec.rules[0].fault.delay_ms")
	wantSet(t, apply(t, w, commit("c6", "c5", content("policies/a.yaml", small("a", 3)))), "a", "b", "n", "team-a", "team-b")

	// A definition outside the policy folder changes what imports it.
	before = reads.Load()
	verdict := apply(t, w, commit("c7", "c6", content("shared/s.cue", shared2)))
	wantSet(t, verdict, "a", "b", "n", "team-a", "team-b")
	if got := verdict.Set.Get("team-a").Policy.Spec.Rules[0].Fault.DelayMS; got != 200 {
		t.Errorf("the delay is %d after the definition changed", got)
	}
	if got := reads.Load() - before; got != 1 {
		t.Errorf("a changed definition read %d files", got)
	}
	if got := verdict.Set.Get("team-a").Origin; got != (schema.Origin{File: team, Line: 11}) {
		t.Errorf("the policy was written at %+v", got)
	}
	wantErrors(t, apply(t, w, commit("c8", "c7", gone("shared/s.cue"))), "shared")
	wantSet(t, apply(t, w, commit("c9", "c8", content("shared/s.cue", shared1))), "a", "b", "n", "team-a", "team-b")

	// Deleted, renamed, and left out of a full listing.
	wantSet(t, apply(t, w, commit("c10", "c9", gone(team), gone("policies/n.yaml"))), "a", "b")
	wantSet(t, apply(t, w, commit("c11", "c10", gone("policies/a.yaml"), content("policies/z.yaml", small("a", 3)))), "a", "b")
	wantSet(t, apply(t, w, commit("c12", "", module, own, b)), "b")
	wantSet(t, apply(t, w, commit("c13", "c12", gone(b.Path))))

	if _, err := w.Apply(context.Background(), commit("c14", "c1", a)); err == nil {
		t.Error("a delta with another base was applied")
	}
}

// TestSetSharesUnchangedPolicies checks that after a small change the next set
// shares all other entries.
func TestSetSharesUnchangedPolicies(t *testing.T) {
	w := New("policies")
	first := apply(t, w, commit("c1", "", manyPolicies(300)...)).Set
	second := apply(t, w, commit("c2", "c1", content("policies/p7.yaml", small("p7", 999)))).Set
	changes := schema.Diff(first, second)
	if len(changes) != 1 || changes[0].Name != "p7" {
		t.Fatalf("the difference is %+v", changes)
	}
	if first.Get("p8") != second.Get("p8") {
		t.Error("an unchanged policy has a new entry")
	}
}

// TestErrorChangesNothing checks that a delta without a verdict does not change the
// workspace.
func TestErrorChangesNothing(t *testing.T) {
	w := New("policies")
	apply(t, w, commit("c1", "", content("policies/a.yaml", small("a", 1))))
	broken := content("policies/b.yaml", "")
	broken.Read = func(context.Context, int64) ([]byte, error) { return nil, errors.New("the object is corrupt") }
	_, err := w.Apply(context.Background(), commit("c2", "c1", content("policies/a.yaml", small("a", 2)), broken, gone("policies/c.yaml")))
	if err == nil || !strings.Contains(err.Error(), "policies/b.yaml") || !strings.Contains(err.Error(), "corrupt") {
		t.Fatalf("the error is %v", err)
	}
	if w.Base() != "c1" {
		t.Fatalf("the base is %q", w.Base())
	}
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Apply(cancelled, commit("c2", "c1", content("policies/a.yaml", small("a", 2)))); !errors.Is(err, context.Canceled) {
		t.Fatalf("the error is %v", err)
	}
	verdict := apply(t, w, commit("c3", "c1", content("policies/d.yaml", small("d", 1))))
	wantSet(t, verdict, "a", "d")
	if got := verdict.Set.Get("a").Policy.Spec.Rules[0].Fault.DelayMS; got != 1 {
		t.Errorf("the delay is %d, want 1", got)
	}
}

// TestDuplicateNames checks that two policies with one name are an error at each of
// them, which names the other.
func TestDuplicateNames(t *testing.T) {
	w := New("policies")
	wantErrors(t, apply(t, w, commit("c1", "", content("policies/a.yaml", small("x", 1)), content("policies/b.yaml", small("x", 1)))),
		`policies/a.yaml:1:1: metadata.name: the name "x" is used here and in policies/b.yaml, line 1;`,
		`policies/b.yaml:1:1: metadata.name: the name "x" is used here and in policies/a.yaml, line 1;`)
	wantErrors(t, apply(t, w, commit("c2", "", content("policies/a.yaml", small("x", 1)+"---\n"+small("x", 2)))),
		"policies/a.yaml:1:1", "policies/a.yaml:12:1")
	wantErrors(t, apply(t, w, commit("c3", "", content("cue.mod/module.cue", testModule), content("policies/a.yaml", small("team-a", 1)),
		content(team, teamText), content("shared/s.cue", shared1))),
		`policies/a.yaml:1:1: metadata.name: the name "team-a" is used here and in policies/team/team.cue, line 11;`,
		`policies/team/team.cue:11:1: metadata.name: the name "team-a" is used here and in policies/a.yaml, line 1;`)
	wantSet(t, apply(t, w, commit("c4", "c3", gone("policies/a.yaml"))), "team-a", "team-b")
}

// TestWhichFiles checks which file names below the policy folder are read.
func TestWhichFiles(t *testing.T) {
	policy := func(name string) string { return small(name, 1) }
	files := []schema.File{
		content("policies/a.yaml", policy("a")), content("policies/b.yml", policy("b")),
		content("policies/with space/c d.yaml", policy("c")), content("policies/new\nline.yaml", policy("d")),
		content("policies/naïve/ünï.yaml", policy("e")), content("policies/\xff\xfe.yaml", policy("f")),
		content("policies/_under.yaml", policy("g")), content("policies/-dash.yaml", policy("h")), content("policies/x.y.yaml", policy("i")),
		content("policies/README.md", "# policies"), content("policies/notes.txt", "x"), content("policies/yaml", "x"),
		content("policies/.hidden.yaml", "nonsense"), content("policies/.dir/x.yaml", "nonsense"), content("policies/cue.mod/x.yaml", "nonsense"),
		content("other/x.yaml", "nonsense"), content("policiesandmore/x.yaml", "nonsense"), content("x.yaml", "nonsense"),
	}
	wantSet(t, apply(t, New("policies"), commit("c", "", files...)), "a", "b", "c", "d", "e", "f", "g", "h", "i")
	wantSet(t, apply(t, New("/policies/"), commit("c", "", files...)), "a", "b", "c", "d", "e", "f", "g", "h", "i")
	wantSet(t, apply(t, New(""), commit("c", "", content("a.yaml", policy("a")), content("deep/b.yaml", policy("b")))), "a", "b")
	wantSet(t, apply(t, New("."), commit("c", "", content("a.yaml", policy("a")))), "a")

	verdict := apply(t, New("policies"), commit("c", "", content("policies/A.YAML", "nonsense")))
	wantSet(t, verdict)
	if len(verdict.Warnings) != 1 || !strings.Contains(verdict.Warnings[0].String(), "policies/A.YAML: this file is ignored") {
		t.Errorf("warnings: %q", lines(verdict.Warnings))
	}
}

// TestRefusals checks that links and submodules are rejected below the policy folder.
func TestRefusals(t *testing.T) {
	link := func(path string) schema.File {
		return schema.File{Path: path, ID: "x", Refusal: "this is a symbolic link"}
	}
	verdict := apply(t, New("policies"), commit("c", "", link("policies/a.yaml"), link("policies/team"), link("policies/.git"),
		link("elsewhere/a.yaml"), link("policies/b.cue")))
	wantErrors(t, verdict, "policies/a.yaml: this is a symbolic link", "policies/b.cue: this is", "policies/team: this is")
	w := New("policies")
	wantErrors(t, apply(t, w, commit("c1", "", link("policies/a.yaml"))), "policies/a.yaml")
	wantSet(t, apply(t, w, commit("c2", "c1", content("policies/a.yaml", small("a", 1)))), "a")
	wantErrors(t, apply(t, w, commit("c3", "c2", link("policies/a.yaml"))), "policies/a.yaml")
	wantSet(t, apply(t, w, commit("c4", "c3", gone("policies/a.yaml"))))
}

// TestBadInput checks that hostile files cost little, have clear errors, and do not
// affect other files.
func TestBadInput(t *testing.T) {
	nest := func(open, close string, n int) string {
		return strings.Repeat(open, n) + "1" + strings.Repeat(close, n)
	}
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&bomb, "a%d: &a%d [%s]\n", i, i, list(fmt.Sprintf("*a%d", i-1), 10))
	}
	var mergeBomb strings.Builder
	mergeBomb.WriteString("a0: &a0 {x: 1}\n")
	for i := 1; i < 30; i++ {
		fmt.Fprintf(&mergeBomb, "a%d: &a%d {<<: [%s]}\n", i, i, list(fmt.Sprintf("*a%d", i-1), 10))
	}
	tests := []struct{ name, file, text, want string }{
		{"not UTF-8", "p.yaml", "metadata:\n  name: \xff\n", "policies/p.yaml:2:9: the file is not valid UTF-8 from here on; save it as UTF-8"},
		{"UTF-16", "p.json", "\xff\xfe{\x00}\x00", "policies/p.json:1:1: the file is not valid UTF-8"},
		{"NUL", "p.yaml", "metadata: \x00", "policies/p.yaml:1:1: invalid YAML: control characters are not allowed"},
		{"LFS", "p.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "policies/p.yaml: this is a Git LFS pointer"},
		{"LFS in CUE", "p/p.cue", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "policies/p/p.cue: this is a Git LFS pointer"},
		{"alias bomb", "p.yaml", bomb.String(), "the aliases expand to more than 10000 values"},
		{"merge bomb", "p.yaml", mergeBomb.String(), "the aliases expand to more than 10000 values"},
		{"merge circle", "p.yaml", "a: &a\n  <<: *a\n", "policies/p.yaml:2:7: the alias *a refers to a value that contains itself"},
		{"circle of two", "p.yaml", "a: &a {b: &b {c: *a}}\n", "contains itself"},
		{"deep YAML", "p.yaml", nest("{a: ", "}", 40), "the document is nested more than 32 levels deep"},
		{"very deep YAML", "p.yaml", nest("[", "]", 400_000), "max depth"},
		{"deep block YAML", "p.yaml", strings.Repeat("- ", 400_000), "max depth"},
		{"deep JSON", "p.json", nest("[", "]", 500_000), "policies/p.json:1:33: the document is nested more than 32 levels deep"},
		{"wide JSON", "p.json", "[" + list("1", 500_000) + "]", "the document has more than 20000 values"},
		{"a long number", "p.json", `{"metadata":{"name":"p"},"spec":{"rules":[{"fault":{"delay_ms":` + rep("1", 1_000_000) + `}}]}}`, "this number has more than 100 digits"},
		{"a million bad documents", "p.yaml", strings.Repeat("--- 1\n", 160_000), "only the first 100 are reported"},
		{"too many rules", "p.yaml", "metadata: {name: p}\nspec: {rules: [" + list("{fault: {delay_ms: 0}}", 3000) + "]}\n", "delay_ms must be a whole number"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			start := time.Now()
			w := New("policies")
			good := content("policies/good.yaml", small("good", 1))
			verdict := apply(t, w, commit("c1", "", good, content("policies/"+test.file, test.text)))
			if verdict.Set != nil || len(verdict.Errors) == 0 {
				t.Fatal("it is valid")
			}
			if got := lines(verdict.Errors); !slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, test.want) }) {
				t.Errorf("the errors are %.600q", got)
			}
			for _, p := range verdict.Errors {
				readable(t, p, false)
				if p.File == good.Path {
					t.Errorf("the good file has an error: %s", p)
				}
			}
			wantSet(t, apply(t, w, commit("c2", "c1", gone("policies/"+test.file))), "good")
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
	t.Run("too large", func(t *testing.T) {
		large := content("policies/p.yaml", rep("# x\n", 1<<18)+"#")
		wantErrors(t, apply(t, New("policies"), commit("c", "", large)), "policies/p.yaml: the file has 1048577 bytes; the limit is 1048576")
		large.Path = "policies/p/p.cue"
		wantErrors(t, apply(t, New("policies"), commit("c", "", large)), "policies/p/p.cue: the file has 1048577 bytes")
	})
}

// TestExpired checks that an expired policy is valid and has a warning, by the
// clock at the time of each verdict.
func TestExpired(t *testing.T) {
	now := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	w := New("policies")
	w.Now = func() time.Time { return now }
	text := strings.Replace(small("a", 1), "spec:", "spec:\n  expires_at: 2027-01-31T12:00:00Z", 1)
	verdict := apply(t, w, commit("c1", "", content("policies/a.yaml", text)))
	wantSet(t, verdict, "a")
	if len(verdict.Warnings) != 0 {
		t.Errorf("warnings: %q", lines(verdict.Warnings))
	}
	now = now.AddDate(0, 2, 0)
	verdict = apply(t, w, commit("c2", "c1"))
	wantSet(t, verdict, "a")
	if got := lines(verdict.Warnings); len(got) != 1 || !strings.Contains(got[0], `policies/a.yaml:1:1: spec.expires_at: policy "a" expired at 2027-01-31T12:00:00Z`) {
		t.Errorf("warnings: %q", got)
	}
	if got := apply(t, w, commit("c3", "c2", gone("policies/a.yaml"))).Warnings; len(got) != 0 {
		t.Errorf("warnings: %q", lines(got))
	}
}

// TestSkippedPolicyIsWarnedOf checks that a valid policy that filters skip has a
// warning at its place. Filters that apply the other policies count as current.
func TestSkippedPolicyIsWarnedOf(t *testing.T) {
	spec := func(regex string) string {
		return `spec: rules: [{match: path: regex: "` + regex + `", fault: delay_ms: 1}]` + "\n"
	}
	const costly = "(.?){999}(.?){999}(.?){999}(.?){999}"
	w := New("policies")
	verdict := apply(t, w, commit("c1", "",
		content("policies/a.yaml", `{"metadata":{"name":"a"},"spec":{"rules":[{"fault":{"delay_ms":1}},{"match":{"path":{"regex":"`+costly+`"}},"fault":{"delay_ms":1}}]}}`),
		content("policies/b.yaml", `{"metadata":{"name":"b"},"spec":{"rules":[{"match":{"path":{"regex":"/b/.*"}},"fault":{"delay_ms":1}}]}}`),
		content("cue.mod/module.cue", testModule), content("cue.mod/pkg/github.com/boifi/hfi/schema/policy.cue", schema.CUE),
		content("policies/team/team.cue", "package team\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: c: "+spec(costly)+"policies: d: "+spec("/d")),
	))
	wantSet(t, verdict, "a", "b", "c", "d")
	got := lines(verdict.Warnings)
	if len(got) != 2 || !strings.Contains(got[0], `policies/a.yaml:1:1: policy "a" is valid, but filters do not get it: spec.rules[1].match.path: regex`) ||
		!strings.Contains(got[1], "policies/team/team.cue:6:1: policy \"c\" is valid") {
		t.Errorf("warnings: %q", got)
	}
	if got := apply(t, w, commit("c2", "c1", gone("policies/a.yaml"), gone("policies/team/team.cue"))).Warnings; len(got) != 0 {
		t.Errorf("warnings: %q", lines(got))
	}
}
