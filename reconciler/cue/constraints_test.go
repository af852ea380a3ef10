package cue

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/format"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"

	"github.com/boifi/hfi/schema"
)

// removal removes one constraint from a parsed policy.cue.
type removal struct {
	name string
	do   func()
}

// removals lists every constraint of the schema: each value, each conjunct,
// each mark of a required field, each struct's being closed, each condition.
func removals(file *ast.File) []removal {
	var all []removal
	add := func(node ast.Node, what string, do func()) {
		text, _ := format.Node(node)
		line, _ := nodePlace(node)
		all = append(all, removal{fmt.Sprintf("line %d: %s %.50s", line, what, strings.Join(strings.Fields(string(text)), " ")), do})
	}
	anything := func() ast.Expr { return ast.NewIdent("_") }
	var expr func(e ast.Expr, set func(ast.Expr))
	var decls func(list []ast.Decl, set func([]ast.Decl))
	expr = func(e ast.Expr, set func(ast.Expr)) {
		switch x := e.(type) {
		case *ast.StructLit:
			if !slices.ContainsFunc(x.Elts, func(d ast.Decl) bool { _, open := d.(*ast.Ellipsis); return open }) {
				add(x, "opens", func() { x.Elts = append(x.Elts, &ast.Ellipsis{}) })
			}
			decls(x.Elts, func(list []ast.Decl) { x.Elts = list })
		case *ast.BinaryExpr:
			if x.Op == token.AND {
				add(x.X, "drops", func() { set(x.Y) })
				add(x.Y, "drops", func() { set(x.X) })
				expr(x.X, func(e ast.Expr) { x.X = e })
				expr(x.Y, func(e ast.Expr) { x.Y = e })
			}
		case *ast.CallExpr:
			if ident, ok := x.Fun.(*ast.Ident); ok && ident.Name == "matchN" {
				for _, arm := range x.Args[1].(*ast.ListLit).Elts {
					if nested, ok := arm.(*ast.CallExpr); ok {
						expr(nested, nil)
						continue
					}
					for _, d := range arm.(*ast.StructLit).Elts {
						if f, ok := d.(*ast.Field); ok {
							add(f, "makes optional in matchN", func() { f.Constraint = token.OPTION })
						}
					}
				}
			}
		}
	}
	decls = func(list []ast.Decl, set func([]ast.Decl)) {
		required := map[string][]*ast.Field{}
		for _, d := range list {
			switch x := d.(type) {
			case *ast.Field:
				if pattern, ok := x.Label.(*ast.ListLit); ok {
					add(x, "any key for", func() { pattern.Elts = []ast.Expr{ast.NewIdent("string")} })
				} else if x.Constraint == token.NOT {
					required[labelOf(x)] = append(required[labelOf(x)], x)
				}
				if value, ok := x.Value.(*ast.Ident); !ok || value.Name != "_" { // else it only declares the name
					add(x, "any value for", func() { x.Value = anything() })
				}
				expr(x.Value, func(e ast.Expr) { x.Value = e })
			case *ast.Comprehension:
				add(x.Value, "removes the condition for", func() {
					set(slices.DeleteFunc(slices.Clone(list), func(other ast.Decl) bool { return other == d }))
				})
				if body, ok := x.Value.(*ast.StructLit); ok {
					decls(body.Elts, func(list []ast.Decl) { body.Elts = list })
				}
			}
		}
		for name, same := range required {
			add(same[0], "makes optional "+name, func() {
				for _, f := range same {
					f.Constraint = token.OPTION
				}
			})
		}
	}
	decls(file.Decls, func(list []ast.Decl) { file.Decls = list })
	slices.SortStableFunc(all, func(a, b removal) int { return strings.Compare(a.name, b.name) })
	return all
}

// harmless are removals that change no verdict: #Policies accepts any key, and its
// values are closed by #Policy.
var harmless = []string{
	"opens { [Name=string]: #Policy & {metadata: name: Name}",
	"opens {metadata: name: Name}",
	"opens { name: Name }",
}

// TestEveryConstraintIsNeeded removes each constraint of the schema in turn. Each
// time the verdict on some sample must change, so that a test fails if a
// constraint is missing.
func TestEveryConstraintIsNeeded(t *testing.T) {
	t.Parallel()
	parse := func() *ast.File {
		file, err := parser.ParseFile("policy.cue", schema.CUE)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	count := len(removals(parse()))
	if count < 80 {
		t.Fatalf("only %d constraints were found in the schema", count)
	}
	if name := caughtBy(t, schema.CUE); name != "" {
		t.Fatalf("the complete schema and the table give different verdicts on %q", name)
	}
	for i := range count {
		file := parse()
		r := removals(file)[i]
		r.do()
		text, err := format.Node(file)
		if err != nil {
			t.Fatalf("%s: %v", r.name, err)
		}
		if name := caughtBy(t, string(text)); name == "" {
			if !slices.ContainsFunc(harmless, func(known string) bool { return strings.Contains(r.name, known) }) {
				t.Errorf("no sample needs the constraint: %s", r.name)
			}
		}
	}
	t.Logf("%d constraints, each needed", count)
}

// caughtBy returns the name of the first sample on which a schema and the table
// give different verdicts, or "".
func caughtBy(t *testing.T, text string) string {
	ctx := cuecontext.New()
	root := ctx.CompileString(text)
	if err := root.Err(); err != nil {
		return "the schema itself" // nothing would be valid
	}
	e := &engine{ctx: ctx}
	if err := e.compile(text); err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		if s.isCUE() {
			continue
		}
		documents, problem := decode(s.file, []byte(s.text), New("").Limits)
		valid := problem == nil
		for _, doc := range documents {
			e.used = 0
			_, invalid, err := e.check(doc)
			if err != nil {
				return s.name
			}
			valid = valid && invalid == nil
		}
		if valid != s.valid {
			return s.name
		}
	}
	// The definition for CUE packages.
	policies := root.LookupPath(cue.ParsePath("#Policies"))
	for _, c := range []struct {
		text  string
		valid bool
	}{
		{`p: spec: rules: [{fault: delay_ms: 1}]`, true},
		{`p: {metadata: name: "q", spec: rules: [{fault: delay_ms: 1}]}`, false},
		{`p: {metadata: name: "p"}`, false},
		{`p: 5`, false},
	} {
		valid := ctx.CompileString(c.text).Unify(policies).Validate(cue.Concrete(true)) == nil
		if valid != c.valid {
			return "cue " + c.text
		}
	}
	return ""
}
