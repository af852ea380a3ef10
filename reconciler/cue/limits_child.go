package cue

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/build"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/load"
	"cuelang.org/go/cue/token"

	"github.com/boifi/hfi/schema"
)

// This file runs in the child process.

// checkAll sends the problems of the limits and, if there are none, those of the files
// that it receives.
func checkAll(r *request, files <-chan []checkedFile, send func(response)) {
	checks := make([]*limitsCheck, 0, len(r.Limits))
	answer := response{}
	for i := range r.Limits {
		c := &limitsCheck{engine: engine{limits: &r.Limits[i]}, depth: r.Depth}
		answer.Errors = append(answer.Errors, c.problems()...)
		checks = append(checks, c)
	}
	send(answer)
	if len(answer.Errors) > 0 {
		return
	}
	for batch := range files {
		answer := response{}
		for _, c := range checks {
			answer.Errors = append(answer.Errors, c.files(batch)...)
		}
		send(answer)
	}
}

// root returns the folder of the limits and of policy.cue for CUE's loader. It must not exist.
func (f *limitsFile) root() string {
	if f.Own {
		return "/.hfi-no-such-folder/own"
	}
	return "/.hfi-no-such-folder/limits"
}

// instance loads policy.cue and the limits, as the cue command loads two files.
func (f *limitsFile) instance() *build.Instance {
	root := f.root()
	return load.Instances([]string{"./policy.cue", "./" + limitsName}, &load.Config{
		Overlay: map[string]load.Source{
			root + "/cue.mod/module.cue": load.FromString("module: \"hfi.example\"\nlanguage: version: \"v0.17.0\"\n"),
			root + "/policy.cue":         load.FromString(schema.CUE + batchSchema),
			root + "/" + limitsName:      load.FromString(f.Text),
		},
		Dir: root, ModuleRoot: root, Registry: noRegistry{}, Env: []string{},
	})[0]
}

// build returns the package of policy.cue and the limits.
func (f *limitsFile) build(ctx *cue.Context) cue.Value {
	return ctx.BuildInstance(f.instance())
}

// place returns the line and column of the first of some positions in the limits, or zeros.
// A package that imports the schema reads the repository's limits at their own path.
func (f *limitsFile) place(positions []token.Pos) (line, column int) {
	for _, position := range positions {
		p := position.Position()
		if p.Line > 0 && (p.Filename == f.root()+"/"+limitsName || !f.Own && p.Filename == absolute(f.Path)) {
			return p.Line, p.Column
		}
	}
	return 0, 0
}

// limitsCheck holds documents against limits.
type limitsCheck struct {
	engine engine
	depth  int
}

// problems returns why the limits cannot be enforced.
func (c *limitsCheck) problems() (problems []schema.Problem) {
	limits := c.engine.limits
	report := func(line, column int, at fieldPath, format string, args ...any) {
		problems = append(problems, schema.Problem{File: limits.Path, Line: line, Column: column, Field: at.general(), Message: fmt.Sprintf(format, args...)})
	}
	defer func() {
		if r := recover(); r != nil {
			report(0, 0, nil, "CUE cannot evaluate the limits: %.200v", r)
		}
	}()
	fail := func(prefix string, err error) {
		first := errors.Errors(err)[0]
		line, column := limits.place(errors.Positions(first))
		message := firstLine(errors.New(strings.ReplaceAll(first.Error(), limits.root()+"/", "")))
		if runes := []rune(message); len(runes) > 200 {
			message = string(runes[:200]) + "…"
		}
		report(line, column, nil, "%s%s", prefix, message)
	}
	instance := limits.instance()
	if instance.Err != nil {
		fail("", instance.Err)
		return problems
	}
	ctx := cuecontext.New()
	root := ctx.BuildInstance(instance)
	policy := root.LookupPath(cue.ParsePath("#Policy"))
	if !policy.Exists() {
		fail("", cmp.Or(root.Err(), policy.Err()))
		return problems
	}
	for _, err := range errors.Errors(policy.Validate()) {
		if isContradiction(err) {
			fail("no policy can be valid: ", err)
			return problems
		}
	}
	c.widens(policy, nil, report)
	// A list has no item to look at without one.
	rule := policy.Unify(ctx.CompileString("spec: rules: [_]")).LookupPath(cue.ParsePath("spec.rules[0]"))
	c.widens(rule, fieldPath{"spec", "rules", "0"}, report)
	return problems
}

// isContradiction reports whether an error remains whatever a policy says.
func isContradiction(err errors.Error) bool {
	format, _ := err.Msg()
	return strings.HasPrefix(format, "conflicting values") || strings.HasPrefix(format, "explicit error") ||
		strings.HasPrefix(format, "invalid value") && !strings.Contains(format, "does not satisfy")
}

// widens reports what the limits add to the fields of a policy. What they add on a
// condition is not found: policy.cue refuses it in a policy.
func (c *limitsCheck) widens(value cue.Value, at fieldPath, report func(line, column int, at fieldPath, format string, args ...any)) {
	place := func(value cue.Value) (line, column int) { return c.engine.limits.place(positionsOf(value)) }
	if endsInList(at) || at.general() == headersField {
		return
	}
	// A struct that lacks a field is not of this kind, and may say that it is open.
	if value.IncompleteKind() == cue.StructKind && value.Allows(cue.AnyString) {
		line, column := place(value)
		report(line, column, at, "this opens %s to any field; a limit can only narrow: remove the ...", cmp.Or(last(at), "a policy"))
	}
	inside, err := value.Fields(cue.Optional(true))
	if err != nil {
		return
	}
	for inside.Next() {
		below := append(slices.Clone(at), inside.Selector().Unquoted())
		if _, known := fields[below.general()]; !known {
			line, column := place(inside.Value())
			meant := didYouMean(last(below), at.general())
			if meant != "" {
				meant = fmt.Sprintf("; did you mean %q?", meant)
			}
			report(line, column, below, "policies have no such field, and limits cannot add one%s", meant)
			continue
		}
		c.widens(inside.Value(), below, report)
	}
}

// files returns the problems of files.
func (c *limitsCheck) files(files []checkedFile) []schema.Problem {
	var all []ast.Expr
	isPlain := true
	for _, f := range files {
		documents, _ := decode(f.Path, f.Content, Limits{MaxDepth: c.depth})
		for _, document := range documents {
			_, ok := plain(nil, document)
			isPlain = isPlain && ok
		}
		all = append(all, documents...)
	}
	if isPlain && c.accept(all) {
		return nil
	}
	var problems []schema.Problem
	for _, f := range files {
		documents, _ := decode(f.Path, f.Content, Limits{MaxDepth: c.depth})
		for _, document := range documents {
			for _, p := range c.document(document) {
				p.File = f.Path
				problems = append(problems, p)
			}
		}
	}
	return problems
}

// accept reports whether all documents conform to the limits. It changes the documents.
func (c *limitsCheck) accept(documents []ast.Expr) (valid bool) {
	e := &c.engine
	if err := e.ready(len(documents)); err != nil {
		return false
	}
	defer func() {
		if recover() != nil {
			e.ctx = nil
			valid = false
		}
	}()
	value := e.ctx.BuildFile(together(documents)).Unify(e.batch)
	if value.Validate(cue.Concrete(true)) != nil {
		return false
	}
	for i, document := range documents {
		if added(value.LookupPath(cue.MakePath(cue.Str(strconv.Itoa(i)))), document, nil) != nil {
			return false
		}
	}
	return true
}

// document returns the problems of a document. CUE stops at the first error in a list or
// a struct, so each rule is looked at alone too, and the document without any.
func (c *limitsCheck) document(document ast.Expr) []schema.Problem {
	problems := c.explain(document)
	if len(problems) == 0 {
		return nil
	}
	_, rules, _ := node(document, fieldPath{"spec", "rules"})
	list, ok := rules.(*ast.ListLit)
	if !ok || len(list.Elts) < 2 {
		return problems
	}
	without := clone(document)
	_, above, _ := node(without, fieldPath{"spec"})
	remove(above, "rules")
	for _, p := range c.explain(without) {
		if !strings.HasPrefix(p.Field, "spec.rules") && !reported(problems, p) {
			problems = append(problems, p)
		}
	}
	for i, rule := range list.Elts {
		if len(problems) >= maxFindings {
			break
		}
		alone := clone(document)
		_, rules, _ := node(alone, fieldPath{"spec", "rules"})
		rules.(*ast.ListLit).Elts = []ast.Expr{clone(rule)}
		for _, p := range c.explain(alone) {
			inside, ok := strings.CutPrefix(p.Field, "spec.rules[0]")
			p.Field = fmt.Sprintf("spec.rules[%d]%s", i, inside)
			if ok && !reported(problems, p) {
				problems = append(problems, p)
			}
		}
	}
	return problems
}

// explain returns the problems of a document. Each wrong value is removed, until CUE
// finds no others.
func (c *limitsCheck) explain(document ast.Expr) []schema.Problem {
	var problems []schema.Problem
	var removed []fieldPath
	draft := clone(document)
	for round := range maxRounds {
		found := c.errors(clone(draft))
		changed := false
		for i := range found {
			f := &found[i]
			// That a removed field is missing is no error of the document.
			if slices.ContainsFunc(removed, func(at fieldPath) bool { return slices.Equal(at, f.at) }) || round > 0 && (f.limit == 0 || f.lacking) {
				continue
			}
			if !reported(problems, f.problem) {
				problems = append(problems, f.problem)
			}
			if !hasErrorBelow(found, f) && len(f.at) > 0 {
				_, parent, _ := node(draft, f.at[:len(f.at)-1])
				changed = remove(parent, last(f.at)) || changed
				removed = append(removed, f.at)
			}
		}
		if !changed || len(problems) >= maxFindings {
			break
		}
	}
	return problems
}

// errors returns the errors of a document, with their places in it. It changes the document.
func (c *limitsCheck) errors(document ast.Expr) (found []finding) {
	e := &c.engine
	add := func(at fieldPath, limit int, sentence string) {
		line, column := 1, 1
		if n := deepest(document, at); n != nil {
			line, column = nodePlace(n)
		}
		found = append(found, finding{at: at, limit: limit, problem: schema.Problem{
			Line: line, Column: column, Field: at.String(), Message: fmt.Sprintf("%s (%s)", sentence, e.limits.at(limit)),
		}})
	}
	defer func() {
		if recover() != nil {
			e.ctx = nil
			add(nil, 0, "CUE cannot evaluate the limits for this policy")
		}
	}()
	_ = e.ready(1) // the limits were compiled before
	value := e.ctx.BuildFile(asFile(document)).Unify(e.policy)
	if err := value.Validate(cue.Concrete(true)); err != nil {
		for _, same := range byPath(errors.Errors(err)) {
			at := unquoted(same[0].Path())
			_, given, _ := node(document, at)
			limit := e.limits.lineOf(same)
			add(at, limit, e.limits.complaint(at, given, same, limit))
			found[len(found)-1].lacking = strings.Contains(same[0].Error(), "matchN")
		}
		return found
	}
	if at := added(value, document, nil); at != nil {
		limit, _ := e.limits.place(positionsOf(value.LookupPath(pathOf(at))))
		add(at, limit, last(at)+" is missing: a limit requires it")
	}
	return found
}

// added returns the path of a field that a value has and the document, which it was made
// of, has not; nil if there is none.
func added(value cue.Value, document ast.Expr, at fieldPath) fieldPath {
	switch value.IncompleteKind() {
	case cue.StructKind:
		inside, err := value.Fields()
		if err != nil {
			return nil
		}
		for inside.Next() {
			name := inside.Selector().Unquoted()
			below := append(slices.Clone(at), name)
			_, given, _ := node(document, fieldPath{name})
			if given == nil {
				return below
			}
			if found := added(inside.Value(), given, below); found != nil {
				return found
			}
		}
	case cue.ListKind:
		items, err := value.List()
		if err != nil {
			return nil
		}
		for i := 0; items.Next(); i++ {
			step := strconv.Itoa(i)
			_, given, _ := node(document, fieldPath{step})
			if given == nil {
				return append(slices.Clone(at), step)
			}
			if found := added(items.Value(), given, append(slices.Clone(at), step)); found != nil {
				return found
			}
		}
	}
	return nil
}

// pathOf returns a path as one of CUE.
func pathOf(at fieldPath) cue.Path {
	selectors := make([]cue.Selector, len(at))
	for i, step := range at {
		if n, err := strconv.Atoi(step); err == nil && endsInList(at[:i]) {
			selectors[i] = cue.Index(n)
		} else {
			selectors[i] = cue.Str(step)
		}
	}
	return cue.MakePath(selectors...)
}

// byPath groups errors by their paths, in order.
func byPath(all []errors.Error) [][]errors.Error {
	var groups [][]errors.Error
	index := map[string]int{}
	for _, e := range all {
		key := fmt.Sprintf("%q", e.Path())
		if _, seen := index[key]; !seen {
			index[key] = len(groups)
			groups = append(groups, nil)
		}
		groups[index[key]] = append(groups[index[key]], e)
	}
	return groups
}

func last(at fieldPath) string {
	if len(at) == 0 {
		return ""
	}
	return at[len(at)-1]
}
