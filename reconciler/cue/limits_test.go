package cue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

const limitsPath = "cue.mod/pkg/github.com/boifi/hfi/schema/limits.cue"

// limited are texts of limits.cue with which stock cue and a Workspace must give the same
// verdicts on all samples.
var limited = map[string]string{
	"none":           "package schema\n",
	"a percentage":   "package schema\n\n#Policy: spec: rules: [...{fault: percentage!: <=20}]\n",
	"a delay":        "package schema\n\n#Policy: spec: rules: [...{fault: delay_ms?: <=60_000}]\n",
	"by #Fault":      "package schema\n\n#FaultFields: percentage!: <=20\n",
	"a namespace":    "package schema\n\n#Policy: spec: selector?: namespace?: !=\"demo\" & !~\"^kube-\"\n",
	"a selector":     "package schema\n\n#Policy: spec: selector!: {service!: !=\"*\" & !=\"\", namespace!: \"demo\" | \"shop\"}\n",
	"an expiry":      "package schema\n\n#Policy: spec: expires_at: string\n",
	"no abort":       "package schema\n\n#Policy: spec: rules: [...{fault: abort?: _|_}]\n",
	"a condition":    "package schema\n\n#Policy: spec: {\n\tselector?: _\n\tif selector.service == _|_ {\n\t\trules: [...{fault: percentage!: <=5}]\n\t}\n}\n",
	"few rules":      "package schema\n\nimport \"list\"\n\n#Policy: spec: rules!: list.MaxItems(2)\n",
	"a message":      "package schema\n\n#Policy: spec: selector?: namespace?: !=\"demo\" | error(\"demo is closed\")\n",
	"a looser bound": "package schema\n\n#Policy: spec: rules: [...{fault: percentage?: <=1000}]\n",
	"impossible":     "package schema\n\n#Policy: spec: rules: [...{fault: percentage!: <=20 & >=30}]\n",
}

// limitedSamples are the policies to hold against each of the limits.
func limitedSamples() []sample {
	document := func(rest string) sample {
		return sample{file: "p.yaml", text: "{metadata: {name: p}, spec: {" + rest + "}}\n", valid: ok}
	}
	all := []sample{
		document("rules: [{fault: {delay_ms: 1}}]"),
		document("rules: [{fault: {delay_ms: 1, percentage: 5}}]"),
		document("rules: [{fault: {delay_ms: 60001, percentage: 20}}, {fault: {abort: {status: 503}, percentage: 20.5}}]"),
		document("rules: [{fault: {delay_ms: 1, percentage: 1}}, {fault: {delay_ms: 1, percentage: 1}}, {fault: {delay_ms: 1, percentage: 1}}]"),
		document("selector: {namespace: demo}, rules: [{fault: {delay_ms: 1, percentage: 6}}]"),
		document("selector: {service: web, namespace: demo}, expires_at: 2027-01-31T12:00:00Z, rules: [{fault: {delay_ms: 1}}]"),
		document("selector: {service: \"*\", namespace: kube-system}, rules: [{fault: {delay_ms: 1}}]"),
		document("selector: {gateway: edge}, rules: [{fault: {delay_ms: 1}}]"),
		{file: "p.json", text: `{"metadata":{"name":"p"},"spec":{"selector":{"service":"web","namespace":"shop"},"rules":[{"fault":{"percentage":100,"delay_ms":1}}]}}`, valid: ok},
		pkg(ok, "", imports+"policies: p: spec: {selector: {service: \"web\", namespace: \"shop\"}, rules: [{fault: {percentage: 5, delay_ms: 1}}]}\n"),
		pkg(ok, "", imports+"policies: p: spec: {selector: namespace: \"demo\", expires_at: \"2027-01-31T12:00:00Z\", rules: [{fault: {percentage: 50, delay_ms: 60001}}, {fault: abort: status: 503}]}\n"),
	}
	if testtool.Slow() {
		for _, s := range samples {
			if s.valid { // limits make nothing valid that is not: TestLimitsOnlyNarrow
				all = append(all, s)
			}
		}
	}
	return all
}

// TestLimitsAgreeWithStock compares the verdicts of stock cue and a Workspace on many
// policies with each of the limits.
func TestLimitsAgreeWithStock(t *testing.T) {
	reference := newStock(t)
	policies := limitedSamples()
	for name, limits := range limited {
		t.Run(name, func(t *testing.T) {
			cue := &stock{t: t, cue: reference.cue, schema: reference.schema}
			files := map[string]string{limitsPath: limits}
			whole := withLimits(limits)
			for i, s := range policies {
				path := fmt.Sprintf("policies/s%d/%s", i, strings.TrimPrefix(s.file, "team/"))
				files[path] = s.text
				whole = append(whole, content(path, s.text))
			}
			dir := t.TempDir()
			lay(t, dir, files)
			invalid := map[string][]string{}
			for _, p := range apply(t, New("policies"), commit("c", "", whole...)).Errors {
				if !strings.Contains(p.Message, "policy names must be unique") {
					invalid[filepath.Dir(p.File)] = append(invalid[filepath.Dir(p.File)], p.String())
				}
				readable(t, p, strings.HasSuffix(p.File, ".cue") || strings.Contains(p.Message, "against a limit: ")) // it quotes the limit
			}
			refused := 0
			for path, text := range files {
				if path == limitsPath {
					continue
				}
				arguments := []string{"vet", "-c", "-d", "#Policy", schemaFile, limitsPath, path}
				if strings.HasSuffix(path, ".cue") {
					arguments = []string{"vet", "-c", "./" + filepath.Dir(path)}
				}
				valid, output := cue.run(dir, arguments...)
				if ours := invalid[filepath.Dir(path)]; valid != (len(ours) == 0) {
					t.Errorf("%s: stock cue: valid is %t, ours has the errors %q:\n%s\n%s", path, valid, ours, text, output)
				}
				if !valid {
					refused++
				}
			}
			if harmless := name == "none" || name == "a looser bound"; harmless != (refused == 0) || refused == len(policies) && name != "impossible" {
				t.Errorf("%d of %d are refused", refused, len(policies))
			}
		})
	}
}

// withLimits are the files of a commit with limits.
func withLimits(text string, files ...schema.File) []schema.File {
	return withModule(append(files, content(limitsPath, text))...)
}

const (
	tooMuch = "metadata: {name: p}\nspec:\n  selector: {service: web, namespace: kube-system}\n  rules:\n" +
		"    - fault: {percentage: 60, delay_ms: 90000}\n    - fault: {percentage: 70, delay_ms: 5}\n    - fault: {delay_ms: 5}\n"
	sentencesOfLimits = `package schema

#Policy: spec: {
	selector!: namespace!: !="kube-system"
	expires_at!: _
	rules: [...{fault: {
		percentage!: <=50
		delay_ms?: <60_000
	}}]
}
`
)

// TestLimitSentences checks that each error names the value, the limit and its place, and
// that one error hides no other.
func TestLimitSentences(t *testing.T) {
	wantErrors(t, apply(t, New("policies"), commit("c", "", withLimits(sentencesOfLimits, content("policies/p.yaml", tooMuch))...)),
		`policies/p.yaml:2:1: spec.expires_at: expires_at is missing: a limit requires it (limits.cue:5)`,
		`policies/p.yaml:3:39: spec.selector.namespace: "kube-system" is not allowed by a limit (limits.cue:4)`,
		`policies/p.yaml:5:27: spec.rules[0].fault.percentage: 60 is more than the limit of 50 (limits.cue:7)`,
		`policies/p.yaml:5:41: spec.rules[0].fault.delay_ms: 90000 is not less than the limit of 60000 (limits.cue:8)`,
		`policies/p.yaml:6:27: spec.rules[1].fault.percentage: 70 is more than the limit of 50 (limits.cue:7)`,
		`policies/p.yaml:7:7: spec.rules[2].fault.percentage: percentage is missing: a limit requires it (limits.cue:7)`,
	)
	for _, test := range []struct{ name, limits, policy, want string }{
		{"alternatives", "package schema\n#Policy: spec: selector?: namespace?: \"a\" | \"b\"\n", "selector: {namespace: c}", `policies/p.yaml:1:52: spec.selector.namespace: "c" is not one that a limit allows: "a", "b" (limits.cue:2)`},
		{"a pattern", "package schema\n#Policy: spec: selector?: service?: =~\"^shop-\"\n", "selector: {service: c}", `spec.selector.service: "c" does not match the limit "^shop-" (limits.cue:2)`},
		{"an excluded pattern", "package schema\n#Policy: spec: selector?: service?: !~\"^db\"\n", "selector: {service: db}", `spec.selector.service: "db" is not allowed by a limit: it matches "^db" (limits.cue:2)`},
		{"a minimum", "package schema\n#Policy: spec: rules: [...{fault: delay_ms?: >=5}]\n", "dry_run: true", `spec.rules[0].fault.delay_ms: 1 is less than the limit of 5 (limits.cue:2)`},
		{"a number of items", "package schema\nimport \"list\"\n#Policy: spec: rules!: list.MaxItems(0)\n", "dry_run: true", `spec.rules: this value is against a limit: #Policy: spec: rules!: list.MaxItems(0) (limits.cue:3)`},
		{"a field", "package schema\n#Policy: spec: dry_run?: _|_\n", "dry_run: true", `policies/p.yaml:1:1: this policy is against a limit: #Policy: spec: dry_run?: _|_ (limits.cue:2)`},
		{"a constant", "package schema\n#Policy: spec: dry_run!: true\n", "dry_run: false", `spec.dry_run: false is not what a limit requires: true (limits.cue:2)`},
		{"a message", "package schema\n#Policy: spec: selector?: namespace?: !=\"c\" | error(\"ask the platform team\")\n", "selector: {namespace: c}", `spec.selector.namespace: "c" is not allowed by a limit: ask the platform team (limits.cue:2)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := "{metadata: {name: p}, spec: {" + test.policy + ", rules: [{fault: {delay_ms: 1}}]}}\n"
			verdict := apply(t, New("policies"), commit("c", "", withLimits(test.limits, content("policies/p.yaml", text))...))
			if got := lines(verdict.Errors); len(got) != 1 || !strings.Contains(got[0], test.want) {
				t.Errorf("the errors are\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
		})
	}
	t.Run("a package", func(t *testing.T) {
		text := "package a\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: p: spec: {selector: namespace: \"kube-system\", expires_at: \"2027-01-01T00:00:00Z\", rules: [{fault: {percentage: 60, delay_ms: 1}}]}\n"
		wantErrors(t, apply(t, New("policies"), commit("c", "", withLimits(sentencesOfLimits, content("policies/a/a.cue", text))...)),
			`policies/a/a.cue:6:42: policies.p.spec.selector.namespace: "kube-system" is not allowed by a limit (limits.cue:4)`,
			`policies/a/a.cue:6:122: policies.p.spec.rules[0].fault.percentage: 60 is more than the limit of 50 (limits.cue:7)`)
		text = strings.Replace(text, "policies: schema.#Policies\n", "_s: schema\n", 1)
		wantErrors(t, apply(t, New("policies"), commit("c", "", withLimits(sentencesOfLimits, content("policies/a/a.cue", text))...)),
			`policies/a/a.cue:6:42: policies.p.spec.selector.namespace: "kube-system" is not allowed by a limit (limits.cue:4)`,
			`policies/a/a.cue:6:122: policies.p.spec.rules[0].fault.percentage: 60 is more than the limit of 50 (limits.cue:7)`)
	})
}

// TestLimitsOnlyNarrow checks that limits neither make anything valid that policy.cue
// refuses, nor add anything to a policy.
func TestLimitsOnlyNarrow(t *testing.T) {
	for _, test := range []struct{ name, limits, file, text, want string }{
		{"a new field", "package schema\n\n#Policy: metadata: labels?: {...}\n", "policies/p.yaml", minimal,
			limitsPath + `:3:20: metadata.labels: policies have no such field, and limits cannot add one`},
		{"a misspelt field", "package schema\n\n#Policy: spec: rules: [...{fault: percentge?: <=20}]\n", "policies/p.yaml", minimal,
			limitsPath + `:3:35: spec.rules[].fault.percentge: policies have no such field, and limits cannot add one; did you mean "percentage"?`},
		{"any field", "package schema\n\n#Policy: {...}\n", "policies/p.yaml", minimal,
			limitsPath + `:3:1: this opens a policy to any field; a limit can only narrow: remove the ...`},
		{"any field of spec", "package schema\n\n#Policy: spec: {...}\n", "policies/p.yaml", minimal,
			limitsPath + `:3:10: spec: this opens spec to any field; a limit can only narrow: remove the ...`},
		{"a field on a condition", "package schema\n\n#Policy: {\n\tmetadata: _\n\tif metadata.name == \"p\" {\n\t\textra?: _\n\t}\n}\n", "policies/p.yaml",
			strings.Replace(minimal, "metadata:", "extra: 1, metadata:", 1), `policies/p.yaml:1:2: extra: unknown field "extra"`},
		{"a default", "package schema\n\n#Policy: spec: rules: [...{fault: percentage: *10 | <=20}]\n", "policies/p.yaml", minimal,
			`policies/p.yaml:1:39: spec.rules[0].fault.percentage: percentage is missing: a limit requires it (limits.cue:3)`},
		{"a constant", "package schema\n\n#Policy: spec: dry_run: true\n", "policies/p.yaml", minimal,
			`policies/p.yaml:1:23: spec.dry_run: dry_run is missing: a limit requires it (limits.cue:3)`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantErrors(t, apply(t, New("policies"), commit("c", "", withLimits(test.limits, content(test.file, test.text))...)), test.want)
		})
	}
	t.Run("a package with a new field", func(t *testing.T) {
		text := "package a\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: p: {extra: 1, spec: rules: [{fault: delay_ms: 1}]}\n"
		limits := "package schema\n\n#Policy: {\n\tmetadata: _\n\tif metadata.name == \"p\" {\n\t\textra?: _\n\t}\n}\n"
		wantErrors(t, apply(t, New("policies"), commit("c", "", withLimits(limits, content("policies/a/a.cue", text))...)), `policies/a/a.cue:6:15: policies.p.extra: unknown field "extra"`)
	})
}

// TestBrokenLimits checks that limits that cannot be enforced refuse the commit, and say why.
func TestBrokenLimits(t *testing.T) {
	for _, test := range []struct{ name, limits, want string }{
		{"a syntax error", "package schema\n\n#Policy: spec: {\n", limitsPath + ":3:18: "},
		{"an unknown reference", "package schema\n\n#Policy: spec: rules: [...#Rul]\n", limitsPath + `:3:27: #Policy.spec.rules: reference "#Rul" not found`},
		{"an unknown import", "package schema\n\nimport \"example.com/nothing\"\n\n#Policy: spec: rules: nothing.x\n", limitsPath + ":3:8: limits can import packages of CUE's standard library only, not example.com/nothing"},
		{"a package of the repository", "package schema\n\nimport \"example.com/policies/shared\"\n\n#Policy: spec: rules: shared.x\n", limitsPath + ":3:8: limits can import packages of CUE's standard library only, not example.com/policies/shared"},
		{"another package", "package limits\n\n#Policy: spec: expires_at!: _\n", limitsPath + ":1:9: the package of limits must be schema, not limits"},
		{"no package", "#Policy: spec: expires_at!: _\n", limitsPath + ":1:1: limits must begin with: package schema"},
		{"a build tag", "@if(production)\n\npackage schema\n\n#Policy: spec: expires_at!: _\n", limitsPath + ":1:1: limits must always hold: remove the attribute @if(production)"},
		{"another #Policy", "package schema\n\n#Policy: 5\n", limitsPath + ":3:10: no policy can be valid: "},
		{"another type", "package schema\n\n#Policy: spec: [1]\n", limitsPath + ":3:16: no policy can be valid: "},
		{"too large", "package schema\n\n// " + rep("x", maxLimitsSize) + "\n", limitsPath + fmt.Sprintf(": limits may have at most %d bytes", maxLimitsSize)},
		{"not UTF-8", "package schema // \xff\n", limitsPath + ":1:19: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			verdict := apply(t, New("policies"), commit("c", "", withLimits(test.limits, content("policies/p.yaml", minimal))...))
			if verdict.Set != nil {
				t.Fatal("the commit is valid")
			}
			wantErrors(t, verdict, test.want)
		})
	}
	t.Run("a symbolic link", func(t *testing.T) {
		verdict := apply(t, New("policies"), commit("c", "", withModule(content("policies/p.yaml", minimal), schema.File{Path: limitsPath, ID: "l", Refusal: "this is a symbolic link; policies must be regular files"})...))
		wantErrors(t, verdict, limitsPath+": this is a symbolic link")
	})
}

// TestEndlessLimits checks that limits which do not end, or take too much memory, refuse
// the commit within the limits of time and memory.
func TestEndlessLimits(t *testing.T) {
	const forever = "[for i in list.Range(0, 2000000, 1) for j in list.Range(0, 2000000, 1) {i+j}]"
	for _, test := range []struct{ name, limits, want string }{
		{"always", "package schema\n\nimport \"list\"\n\n_x: " + forever + "\n#Policy: spec: rules!: list.MaxItems(len(_x))\n", limitsPath + ": evaluating the limits exceeds the "},
		{"for one policy", "package schema\n\nimport \"list\"\n\n#Policy: {\n\tmetadata: _\n\tif metadata.name == \"p\" {\n\t\t_x: " + forever + "\n\t\tspec: rules!: list.MaxItems(len(_x))\n\t}\n}\n", limitsPath + ": evaluating the limits exceeds the "},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := New("policies")
			w.EvalTimeout, w.EvalTotal = 2*time.Second, 4*time.Second
			before := childProcesses(t)
			verdict := apply(t, w, commit("c", "", withLimits(test.limits, content("policies/p.yaml", minimal))...))
			wantErrors(t, verdict, test.want)
			if after := childProcesses(t); len(after) > len(before) {
				t.Errorf("children are left: %v", after)
			}
			// The machine may have been busy: the next commit is validated as a whole.
			if base := w.Base(); base != "" {
				t.Errorf("the base is %q", base)
			}
			verdict = apply(t, w, commit("d", "", withLimits("package schema\n", content("policies/p.yaml", minimal))...))
			wantSet(t, verdict, "p")
			if base := w.Base(); base != "d" {
				t.Errorf("the base is %q", base)
			}
		})
	}
}

// TestChangedLimits checks that a change of limits validates every policy again, and that
// nothing else does.
func TestChangedLimits(t *testing.T) {
	w := New("policies")
	strict := "package schema\n\n#Policy: spec: rules: [...{fault: delay_ms?: <=5}]\n"
	slow := strings.Replace(otherName, "delay_ms: 1", "delay_ms: 6", 1)
	pkg := "package a\n\npolicies: r: spec: rules: [{fault: delay_ms: 6}]\n"
	all := func(limits string) []schema.File {
		return withLimits(limits, content("policies/p.yaml", minimal), content("policies/q.yaml", slow), content("policies/a/a.cue", pkg))
	}
	wantSet(t, apply(t, w, commit("c1", "", all("package schema\n")...)), "p", "q", "r")
	// The delta has the limits only, and the policies are read again.
	_, err := w.Apply(context.Background(), commit("c2", "c1", content(limitsPath, strict)))
	if !errors.Is(err, reconciler.ErrWholeCommit) || w.Base() != "" {
		t.Fatalf("the error is %v and the base %q", err, w.Base())
	}
	before := reads.Load()
	verdict := apply(t, w, commit("c2", "", all(strict)...))
	wantErrors(t, verdict, "policies/a/a.cue:3:46: policies.r.spec.rules[0].fault.delay_ms: 6 is more than the limit of 5 (limits.cue:3)",
		"policies/q.yaml:1:57: spec.rules[0].fault.delay_ms: 6 is more than the limit of 5 (limits.cue:3)")
	if n := reads.Load() - before; n != 3 { // the limits, p and q: the package's files are kept
		t.Errorf("%d files were read", n)
	}
	// With the same limits a small change costs little.
	before = reads.Load()
	verdict = apply(t, w, commit("c3", "c2", content("policies/q.yaml", otherName)))
	wantErrors(t, verdict, "policies/a/a.cue:3:46: policies.r")
	if n := reads.Load() - before; n != 1 {
		t.Errorf("%d files were read", n)
	}
	wantSet(t, apply(t, w, commit("c4", "c3", content("policies/a/a.cue", strings.Replace(pkg, "6", "5", 1)))), "p", "q", "r")
	// A new file is held against the same limits.
	wantErrors(t, apply(t, w, commit("c5", "c4", content("policies/q.yaml", slow))), "policies/q.yaml:1:57: ")
	// Without the limits all is valid.
	if _, err := w.Apply(context.Background(), commit("c6", "c5", gone(limitsPath))); !errors.Is(err, reconciler.ErrWholeCommit) {
		t.Fatal(err)
	}
	verdict = apply(t, w, commit("c6", "", withModule(content("policies/p.yaml", minimal), content("policies/q.yaml", slow), content("policies/a/a.cue", pkg))...))
	wantSet(t, verdict, "p", "q", "r")
}

// TestRefusedFileNamedAsLimits checks that the limits do not hide the error of another file.
func TestRefusedFileNamedAsLimits(t *testing.T) {
	link := schema.File{Path: limitsName, ID: "l", Refusal: "this is a symbolic link; policies must be regular files"}
	wantErrors(t, apply(t, New(""), commit("c", "", withLimits("package schema\n", content("p.yaml", minimal), link)...)), limitsName+": this is a symbolic link")
}

// TestLimitsElsewhere checks the warnings about limits that have no effect.
func TestLimitsElsewhere(t *testing.T) {
	limits := "package schema\n\n#Policy: spec: expires_at!: _\n"
	for _, path := range []string{"limits.cue", "policies/limits.cue", "cue.mod/usr/github.com/boifi/hfi/schema/limits.cue", "cue.mod/pkg/github.com/boifi/hfi/limits.cue"} {
		verdict := apply(t, New("policies"), commit("c", "", withModule(content("policies/p.yaml", minimal), content(path, limits))...))
		if got := lines(verdict.Warnings); verdict.Set == nil || len(got) != 1 || !strings.Contains(got[0], path+": this file has no effect: limits are in "+limitsPath) {
			t.Errorf("%s: the warnings are %q, the errors %q", path, got, lines(verdict.Errors))
		}
	}
}

// TestOwnLimits checks that the limits of LimitsFile hold whatever the repository's copies of
// policy.cue and limits.cue say, and that a change of the file is noticed.
func TestOwnLimits(t *testing.T) {
	own := filepath.Join(t.TempDir(), "platform.cue")
	save := func(text string) {
		t.Helper()
		if err := os.WriteFile(own, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	save("package schema\n\n#Policy: spec: rules: [...{fault: percentage!: <=20}]\n")
	open := "package schema\n\n#Policies: [string]: {...}\n#Policy: {...}\n"
	file := "{metadata: {name: p}, spec: {rules: [{fault: {delay_ms: 1, percentage: 30}}]}}\n"
	pkg := "package a\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: q: spec: rules: [{fault: {delay_ms: 1, percentage: 30}}]\n"
	bare := "package b\n\npolicies: r: spec: rules: [{fault: delay_ms: 1}]\n"
	files := []schema.File{content("policies/p.yaml", file), content("policies/a/a.cue", pkg), content("policies/b/b.cue", bare)}
	want := []string{
		"policies/a/a.cue:6:62: policies.q.spec.rules[0].fault.percentage: 30 is more than the limit of 20 (" + own + ":3)",
		"policies.r.spec.rules[0].fault.percentage: percentage is missing: a limit requires it (" + own + ":3)",
		"policies/p.yaml:1:72: spec.rules[0].fault.percentage: 30 is more than the limit of 20 (" + own + ":3)",
	}
	for name, repository := range map[string][]schema.File{
		"no limits":        withModule(),
		"its own limits":   withLimits("package schema\n\n#Policy: spec: rules: [...{fault: delay_ms?: <=5}]\n"),
		"looser limits":    withLimits("package schema\n\n#Policy: spec: rules: [...{fault: percentage?: <=99}]\n"),
		"an open schema":   {content("cue.mod/module.cue", testModule), content(schemaFile, open)},
		"an open copy too": {content("cue.mod/module.cue", testModule), content(schemaFile, open), content("cue.mod/usr/github.com/boifi/hfi/schema/x.cue", open)},
		"no module":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			w := New("policies")
			w.LimitsFile = own
			verdict := apply(t, w, commit("c", "", append(slices.Clone(repository), files...)...))
			if name == "no module" { // CUE cannot import the schema
				if verdict.Set != nil || !strings.Contains(strings.Join(lines(verdict.Errors), "\n"), want[2]) {
					t.Errorf("the errors are %q", lines(verdict.Errors))
				}
				return
			}
			wantErrors(t, verdict, want...)
		})
	}

	w := New("policies")
	w.LimitsFile = own
	whole := withModule(files...)
	if w.Stale() {
		t.Error("a new workspace is stale")
	}
	wantErrors(t, apply(t, w, commit("c1", "", whole...)), want...)
	if w.Stale() {
		t.Error("stale without a change")
	}
	save("package schema\n")
	if !w.Stale() {
		t.Error("a change is not noticed")
	}
	if _, err := w.Apply(context.Background(), commit("c1", "c1")); !errors.Is(err, reconciler.ErrWholeCommit) {
		t.Fatal(err)
	}
	wantSet(t, apply(t, w, commit("c1", "", whole...)), "p", "q", "r")
	for name, change := range map[string]func(){
		"removed":   func() { _ = os.Remove(own) },
		"too large": func() { save(rep("x", maxLimitsSize+1)) },
		"broken":    func() { save("package schema\n\n#Policy: {\n") },
	} {
		change()
		if !w.Stale() {
			t.Errorf("%s: not noticed", name)
		}
		verdict := apply(t, w, commit("c2", "", whole...))
		if got := lines(verdict.Errors); verdict.Set != nil || len(got) != 1 || !strings.HasPrefix(got[0], own+":") {
			t.Errorf("%s: the errors are %q", name, got)
		}
		if w.Stale() {
			t.Errorf("%s: stale without a change", name)
		}
	}
}
