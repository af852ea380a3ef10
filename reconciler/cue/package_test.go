package cue

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// endless is a package that takes CUE a very long time to evaluate.
const endless = "package endless\n\nimport \"list\"\n\nx: [for a in list.Range(0, 100000, 1) for b in list.Range(0, 100000, 1) if a+b < 0 {a}]\n"

// greedy is a package that takes a lot of memory.
const greedy = "package greedy\n\nimport \"strings\"\n\na: strings.Repeat(\"x\", 1000000)\nb: \"\\(a)\\(a)\\(a)\\(a)\\(a)\\(a)\\(a)\\(a)\"\n" +
	"c: \"\\(b)\\(b)\\(b)\\(b)\\(b)\\(b)\\(b)\\(b)\"\nd: \"\\(c)\\(c)\\(c)\\(c)\\(c)\\(c)\\(c)\\(c)\"\ne: \"\\(d)\\(d)\\(d)\\(d)\\(d)\\(d)\\(d)\\(d)\"\n"

func withModule(files ...schema.File) []schema.File {
	return append([]schema.File{content("cue.mod/module.cue", testModule), content(schemaFile, schema.CUE)}, files...)
}

// TestEndlessPackages checks that a package that never ends or takes too much
// memory is an error that names the limit, and hides no other package's error.
func TestEndlessPackages(t *testing.T) {
	for _, test := range []struct {
		name, text, want string
		timeout          time.Duration
		memory           int64
	}{
		// The other limit is high, for slow machines and the race detector.
		{"endless", endless, "policies/m/m.cue: evaluating the package exceeds the time limit of 2s", 2 * time.Second, 4 << 30},
		{"greedy", greedy, "policies/m/m.cue: evaluating the package exceeds the memory limit of 256 MiB", time.Minute, 256 << 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := New("policies")
			w.EvalTimeout, w.EvalMemory = test.timeout, test.memory
			wantErrors(t, apply(t, w, commit("c1", "", withModule(
				content("policies/a/a.cue", "package a\n\nx: 1 & 2\n"),
				content("policies/m/m.cue", test.text),
				content("policies/z/z.cue", "package z\n\nx: 1 & 2\n"),
				content("policies/ok.yaml", small("ok", 1)))...)),
				"policies/a/a.cue:3:4: x: conflicting values", test.want, "policies/z/z.cue:3:4: x: conflicting values")
			wantSet(t, apply(t, w, commit("c2", "c1", gone("policies/a/a.cue"), gone("policies/m/m.cue"), gone("policies/z/z.cue"))), "ok")
		})
	}
}

// TestManyEndlessPackages checks that packages that exceed the time limit for a
// commit are errors, so that there is a verdict and the commit is not retried for
// ever.
func TestManyEndlessPackages(t *testing.T) {
	w := New("policies")
	w.EvalTimeout, w.EvalTotal = time.Minute, 3*time.Second
	const want = ": the package was not evaluated: all packages together exceed the time limit of 3s"
	wantErrors(t, apply(t, w, commit("c1", "", withModule(
		content("policies/e/e.cue", endless),
		content("policies/f/f.cue", endless),
		content("policies/g/g.cue", "package g\n\nx: 1 & 2\n"),
		content("policies/bad.yaml", "metadata: {name: bad}\n"),
		content("policies/ok.yaml", small("ok", 1)))...)),
		"policies/bad.yaml:", "policies/e/e.cue"+want, "policies/f/f.cue"+want, "policies/g/g.cue"+want)

	// The packages that were not evaluated are evaluated with the next commit, although they have not changed.
	w.EvalTotal = time.Minute
	wantErrors(t, apply(t, w, commit("c2", "c1", gone("policies/e/e.cue"), gone("policies/f/f.cue"), gone("policies/bad.yaml"))),
		"policies/g/g.cue:3:4: x: conflicting values")
	wantSet(t, apply(t, w, commit("c3", "c2", gone("policies/g/g.cue"))), "ok")
}

// TestDeepPackages checks that deep nesting and recursion are errors and do not
// end this process.
func TestDeepPackages(t *testing.T) {
	for name, text := range map[string]string{
		"brackets":    "package a\n\nx: " + rep("[", 9_000) + rep("]", 9_000) + "\n",
		"too many":    "package a\n\nx: " + rep("[", 400_000) + rep("]", 400_000) + "\n",
		"selectors":   "package a\n\n" + rep("a: ", 9_000) + "1 & 2\n",
		"recursion":   "package a\n\n#L: {next: #L}\nx: #L\n",
		"parentheses": "package a\n\nx: " + rep("(", 9_000) + "1 & 2" + rep(")", 9_000) + "\n",
		"unary":       "package a\n\nx: " + rep("-", 500_000) + "1\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := New("policies")
			w.EvalTimeout = 5 * time.Second
			verdict := apply(t, w, commit("c", "", withModule(content("policies/a/a.cue", text), content("policies/ok.yaml", small("ok", 1)))...))
			for _, p := range verdict.Errors {
				readable(t, p, true)
				if p.File != "policies/a/a.cue" {
					t.Errorf("an error in another file: %s", p)
				}
			}
		})
	}
}

// TestChildIsKilled checks that the child is killed and reaped when the context is
// cancelled.
func TestChildIsKilled(t *testing.T) {
	w := New("policies")
	w.EvalTimeout = time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 700*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := w.Apply(ctx, commit("c", "", withModule(content("policies/e/e.cue", endless))...))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the error is %v", err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	if w.Base() != "" {
		t.Error("the delta was applied")
	}
	for _, pid := range childProcesses(t) {
		t.Errorf("the child process %d still exists", pid)
	}
}

// childProcesses returns the IDs of this process's children, on Linux.
func childProcesses(t *testing.T) []int {
	var pids []int
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, field := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestAffectedPackages checks that a package is evaluated again only when the
// package, its imports, or the module has changed.
func TestAffectedPackages(t *testing.T) {
	file := func(path, text string) *cueFile {
		f := &cueFile{path: path, content: text}
		f.parse()
		return f
	}
	p := newPackages("policies")
	for _, f := range []*cueFile{
		file("cue.mod/module.cue", testModule),
		file("policies/a/a.cue", "package a\nimport \"example.com/policies/lib/one\"\n"),
		file("policies/b/b.cue", "package b\nimport \"example.com/policies/lib/two\"\n"),
		file("policies/c/c.cue", "package c\n"),
		file("policies/c/d/d.cue", "package c\n"),
		file("policies/c/e/e.cue", "package e\n"),
		file("policies/f/f.cue", "package f\nimport \"example.com/policies/policies/a\"\n"),
		file("policies/g/g.cue", "package g\nimport \"example.com/policies/nowhere:x\"\n"),
		file("lib/one/one.cue", "package one\nimport \"example.com/policies/lib/two\"\n"),
		file("lib/two/two.cue", "package two\n"),
		file("lib/three/three.cue", "package three\n"),
	} {
		p.files[f.path] = f
	}
	p.resolve()
	for _, test := range []struct{ changed, want string }{
		{"policies/a/a.cue", "policies/a policies/f"},
		{"lib/two/two.cue", "policies/a policies/b policies/f"},
		{"lib/one/one.cue", "policies/a policies/f"},
		{"lib/three/three.cue", ""},
		{"policies/c/c.cue", "policies/c policies/c/d"},
		{"policies/c/d/d.cue", "policies/c/d"},
		{"cue.mod/module.cue", "policies/a policies/b policies/c policies/c/d policies/c/e policies/f policies/g"},
	} {
		if got := strings.Join(p.affected(p, []string{test.changed}, false), " "); got != test.want {
			t.Errorf("a change of %s affects %q, want %q", test.changed, got, test.want)
		}
	}
	// A package that was too slow before comes last: it may leave no time for the others.
	p.undecided = map[string]bool{"policies/a": true}
	if got := strings.Join(p.affected(p, []string{"lib/two/two.cue"}, false), " "); got != "policies/b policies/f policies/a" {
		t.Errorf("the order is %q", got)
	}
	p.undecided = nil
	// A missing package is added.
	next := *p
	next.files = map[string]*cueFile{"nowhere/x.cue": file("nowhere/x.cue", "package x\n")}
	for path, f := range p.files {
		next.files[path] = f
	}
	next.resolve()
	if got := strings.Join(next.affected(p, []string{"nowhere/x.cue"}, false), " "); got != "policies/g" {
		t.Errorf("a new package affects %q", got)
	}
}

// TestOwnSchemaWins checks that hfi uses its own schema, and warns if the
// repository's copy differs.
func TestOwnSchemaWins(t *testing.T) {
	w := New("policies")
	lax := "package schema\n\n#Policies: [string]: {...}\n#Policy: {...}\n"
	text := "package a\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: a: spec: rules: [{fault: delay_ms: 0}]\n"
	verdict := apply(t, w, commit("c1", "", content("cue.mod/module.cue", testModule), content(schemaFile, lax), content("policies/a/a.cue", text)))
	wantErrors(t, verdict, "policies/a/a.cue:6:46: policies.a.spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 0")
	if got := lines(verdict.Warnings); len(got) != 1 || !strings.Contains(got[0], schemaFile+": this copy of the schema differs") {
		t.Errorf("warnings: %q", got)
	}
	verdict = apply(t, w, commit("c2", "c1", content(schemaFile, schema.CUE), content("policies/a/a.cue", strings.Replace(text, "delay_ms: 0", "delay_ms: 1", 1))))
	wantSet(t, verdict, "a")
	if len(verdict.Warnings) != 0 {
		t.Errorf("warnings: %q", lines(verdict.Warnings))
	}
	verdict = apply(t, w, commit("c3", "c2", gone(schemaFile)))
	wantSet(t, verdict, "a")
	if got := lines(verdict.Warnings); len(got) != 1 || !strings.Contains(got[0], "has no copy of the schema") {
		t.Errorf("warnings: %q", got)
	}
	// Other files in that folder, and the other folders that CUE searches, are not used.
	verdict = apply(t, w, commit("c4", "c3", content(schemaFile, schema.CUE),
		content("cue.mod/usr/github.com/boifi/hfi/schema/more.cue", "package schema\n\n#Fault: delay_ms: 7\n"),
		content("cue.mod/pkg/github.com/boifi/hfi/schema/more.cue", "package schema\n\n#Fault: delay_ms: 7\n")))
	wantSet(t, verdict, "a")
	if len(verdict.Warnings) != 2 {
		t.Errorf("warnings: %q", lines(verdict.Warnings))
	}
}

// TestPackageFolders checks where the module and the policy folder may be.
func TestPackageFolders(t *testing.T) {
	text := "package a\n\nimport \"github.com/boifi/hfi/schema\"\n\npolicies: schema.#Policies\npolicies: a: spec: rules: [{fault: delay_ms: 1}]\n"
	for _, test := range []struct{ name, policyPath, module string }{
		{"module at the root", "policies", ""},
		{"module in the policy folder", "policies", "policies/"},
		{"module between the root and the policy folder", "x/policies", "x/"},
		{"policies at the root", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			folder := strings.Trim(test.policyPath+"/a", "/")
			files := []schema.File{
				content(test.module+"cue.mod/module.cue", testModule), content(test.module+schemaFile, schema.CUE), content(folder+"/a.cue", text),
			}
			wantSet(t, apply(t, New(test.policyPath), commit("c", "", files...)), "a")
		})
	}
	t.Run("no module", func(t *testing.T) {
		wantErrors(t, apply(t, New("policies"), commit("c", "", content("policies/a/a.cue", text))), "policies/a/a.cue:3:8: ")
		wantSet(t, apply(t, New("policies"), commit("c", "", content("policies/a/a.cue", "package a\n\nx: 1\n"))))
	})
	t.Run("a nested module", func(t *testing.T) {
		wantSet(t, apply(t, New("policies"), commit("c", "", withModule(
			content("policies/a/a.cue", text), content("policies/sub/cue.mod/module.cue", testModule), content("policies/sub/b/b.cue", "package b\n\nx: 1 & 2\n"))...)), "a")
	})
	t.Run("a registry", func(t *testing.T) {
		verdict := apply(t, New("policies"), commit("c", "", content("cue.mod/module.cue", testModule+"deps: \"cue.dev/x/k8s.io@v0\": v: \"v0.1.0\"\n"),
			content(schemaFile, schema.CUE), content("policies/a/a.cue", "package a\n\nimport \"cue.dev/x/k8s.io/api\"\n\nx: api.y\n")))
		if verdict.Set != nil || !strings.Contains(strings.Join(lines(verdict.Errors), " "), "modules from a registry are not supported") {
			t.Errorf("errors: %q", lines(verdict.Errors))
		}
	})
	t.Run("the module of the schema", func(t *testing.T) {
		wantSet(t, apply(t, New("policies"), commit("c", "",
			content("cue.mod/module.cue", strings.Replace(testModule, "example.com/policies", "github.com/boifi/hfi", 1)),
			content("schema/policy.cue", schema.CUE), content("policies/a/a.cue", text))), "a")
	})
}

// TestUnconstrainedPolicies checks that policies are validated against the schema
// even if the package does not constrain them.
func TestUnconstrainedPolicies(t *testing.T) {
	w := New("policies")
	wantErrors(t, apply(t, w, commit("c1", "", withModule(content("policies/a/a.cue", "package a\n\npolicies: a: spec: rules: [{fault: delay_ms: 0}]\n"))...)),
		"policies/a/a.cue:3:46: policies.a.spec.rules[0].fault.delay_ms: delay_ms must be")
	wantSet(t, apply(t, w, commit("c2", "", withModule(content("policies/a/a.cue", "package a\n\npolicies: a: spec: rules: [{fault: delay_ms: 1}]\n"))...)), "a")
	wantErrors(t, apply(t, w, commit("c3", "", withModule(content("policies/a/a.cue", "package a\n\npolicies: [1]\n"))...)), "policies/a/a.cue:3:")
}

// hundred generates a hundred policies with a comprehension: a delay for each of a
// hundred services, each a little longer than the one before.
const hundred = `package hundred

import (
	"list"
	"strings"

	"github.com/boifi/hfi/schema"
)

policies: schema.#Policies

#slow: {
	n: int
	policy: spec: {
		selector: {service: "shop-\(n)", namespace: "demo"}
		rules: [{
			match: {methods: ["GET"], path: prefix: strings.ToLower("/SHOP/\(n)")}
			fault: {percentage: 12.5, delay_ms: 10 + 10*n}
		}]
	}
}

policies: {for i in list.Range(0, 100, 1) {"slow-\(i)": (#slow & {n: i}).policy}}
`

// TestGeneratedPolicies checks that a workspace reads the same generated policies
// as stock cue exports, and that one invalid policy fails both.
func TestGeneratedPolicies(t *testing.T) {
	cue := newStock(t)
	verdicts := func(t *testing.T, text string) (*schema.Verdict, string) {
		t.Helper()
		dir := t.TempDir()
		lay(t, dir, map[string]string{"policies/hundred/hundred.cue": text})
		verdict := apply(t, New("policies"), commit("c", "", withModule(content("policies/hundred/hundred.cue", text))...))
		valid, output := cue.packages(dir, "policies")
		if valid != (len(verdict.Errors) == 0) {
			t.Fatalf("stock cue: valid is %t: %s\nworkspace: %q", valid, output, lines(verdict.Errors))
		}
		return verdict, dir
	}
	verdict, dir := verdicts(t, hundred)
	if verdict.Set == nil || verdict.Set.Len() != 100 {
		t.Fatalf("the set is %v, the errors are %q", verdict.Set, lines(verdict.Errors))
	}
	valid, output := cue.run(dir, "export", "./policies/hundred", "-e", "policies", "--out", "json")
	var exported map[string]json.RawMessage
	if err := json.Unmarshal([]byte(output), &exported); err != nil || !valid || len(exported) != 100 {
		t.Fatalf("stock cue exports %d policies (%v): %.300s", len(exported), err, output)
	}
	for name, text := range exported {
		want, err := schema.Parse(text)
		if err != nil {
			t.Fatalf("stock cue's export of %s is not a policy: %v", name, err)
		}
		got := verdict.Set.Get(name)
		if got == nil || string(got.Canonical) != string(want.Canonical()) {
			t.Errorf("%s is %v, stock cue has %s", name, got, want.Canonical())
		}
	}
	if last := string(verdict.Set.Get("slow-99").Canonical); !strings.Contains(last, `"delay_ms":1000`) || !strings.Contains(last, `"/shop/99"`) || !strings.Contains(last, `"shop-99"`) {
		t.Errorf("the last one is %s", last)
	}
	again, _ := verdicts(t, hundred)
	if again.Set.Digest() != verdict.Set.Digest() {
		t.Errorf("the digest of the same package is %s, then %s", verdict.Set.Digest(), again.Set.Digest())
	}

	// Only the last delay is out of bounds: 3,600,010 ms.
	broken, _ := verdicts(t, strings.Replace(hundred, "10 + 10*n}", "10 + 10*n + 3599000*div(n, 99) + 10*div(n, 99)}", 1))
	if got := lines(broken.Errors); broken.Set != nil || len(got) != 1 || !strings.Contains(got[0], `policies["slow-99"].spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, not 3600010`) {
		t.Errorf("with one invalid policy, the errors are %q", got)
	}
}

// TestAllErrorsOfAPackage checks that the error of one policy does not hide that of another.
func TestAllErrorsOfAPackage(t *testing.T) {
	text := `package bad

import "github.com/boifi/hfi/schema"

policies: schema.#Policies
policies: {
	one: spec: rules: [{fault: {percentage: 150, delay_ms: 5}}]
	two: spec: rules: [{fault: {percentage: 50, delay: 5}}]
	three: spec: rules: [{fault: {percentage: 50, delay_ms: int}}]
	four: spec: rules: [{fault: abort: {}}]
	"n-5": {"a-b": 1, spec: rules: [{fault: delay_ms: 1}]}
}
`
	wantErrors(t, apply(t, New("policies"), commit("c", "", withModule(content("policies/b/b.cue", text))...)),
		"policies/b/b.cue:7:42: policies.one.spec.rules[0].fault.percentage: percentage must be between 0 and 100, not 150",
		`policies/b/b.cue:8:46: policies.two.spec.rules[0].fault.delay: unknown field "delay"; did you mean "delay_ms"?`,
		"policies.three.spec.rules[0].fault.delay_ms: delay_ms must be a whole number from 1 to 3600000, but it has no value",
		"policies/b/b.cue:10:37: policies.four.spec.rules[0].fault.abort: abort needs exactly one of status and grpc_status",
		`policies/b/b.cue:11:10: policies["n-5"]["a-b"]: unknown field "a-b"`)
}
