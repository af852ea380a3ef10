package cue

import (
	"fmt"
	"slices"
	"strconv"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"

	"github.com/boifi/hfi/schema"
)

// removeDuplicates makes one field of those with the same name in one struct of an
// invalid document, and returns a problem for each that conflicts with the first. (CUE
// unifies them, so those without a conflict are valid.)
func removeDuplicates(document ast.Expr) []schema.Problem {
	var problems []schema.Problem
	var walk func(expr ast.Expr, at fieldPath)
	walk = func(expr ast.Expr, at fieldPath) {
		switch x := expr.(type) {
		case *ast.StructLit:
			first := map[string]*ast.Field{}
			x.Elts = slices.DeleteFunc(x.Elts, func(decl ast.Decl) bool {
				field, ok := decl.(*ast.Field)
				if !ok {
					return false
				}
				name := labelOf(field)
				before := first[name]
				if before == nil {
					first[name] = field
					return false
				}
				if conflict(before.Value, field.Value) {
					problems = append(problems, duplicate(append(slices.Clone(at), name), before, field))
				} else if one, ok := before.Value.(*ast.StructLit); ok {
					one.Elts = append(one.Elts, field.Value.(*ast.StructLit).Elts...)
				}
				return true
			})
			for _, decl := range x.Elts {
				if field, ok := decl.(*ast.Field); ok {
					walk(field.Value, append(slices.Clone(at), labelOf(field)))
				}
			}
		case *ast.ListLit:
			for i, element := range x.Elts {
				walk(element, append(slices.Clone(at), strconv.Itoa(i)))
			}
		}
	}
	walk(document, nil)
	if len(problems) > 1 && !slices.ContainsFunc(problems, func(p schema.Problem) bool { return p.Field != "metadata" && p.Field != "spec" }) {
		return problems[:1] // a whole second policy
	}
	return problems
}

// duplicate returns the problem for a field that occurs twice in a struct.
func duplicate(at fieldPath, first, second *ast.Field) schema.Problem {
	line, column := nodePlace(second.Label)
	firstLine, _ := nodePlace(first.Label)
	p := schema.Problem{Line: line, Column: column, Field: at.String()}
	if len(at) == 1 {
		p.Message = fmt.Sprintf("%s is already on line %d; if another policy begins here, write a line with --- before it", nameIn(at), firstLine)
	} else {
		p.Message = fmt.Sprintf("%s is already on line %d, with another value; remove one of them", nameIn(at), firstLine)
	}
	return p
}

// conflict reports whether two values of one field cannot both hold.
func conflict(a, b ast.Expr) bool {
	switch x := a.(type) {
	case *ast.StructLit:
		y, ok := b.(*ast.StructLit)
		if !ok {
			return true
		}
		return slices.ContainsFunc(y.Elts, func(decl ast.Decl) bool {
			field, ok := decl.(*ast.Field)
			if !ok {
				return false
			}
			_, other, _ := node(x, fieldPath{labelOf(field)})
			return other != nil && conflict(other, field.Value)
		})
	case *ast.ListLit:
		y, ok := b.(*ast.ListLit)
		if !ok || len(x.Elts) != len(y.Elts) {
			return true
		}
		for i := range x.Elts {
			if conflict(x.Elts[i], y.Elts[i]) {
				return true
			}
		}
		return false
	case *ast.BasicLit:
		y, ok := b.(*ast.BasicLit)
		if !ok || x.Kind != y.Kind {
			return true
		}
		switch x.Kind {
		case token.STRING:
			one, _ := literal.Unquote(x.Value)
			other, _ := literal.Unquote(y.Value)
			return one != other
		case token.INT:
			one, oneErr := strconv.ParseInt(x.Value, 0, 64)
			other, otherErr := strconv.ParseInt(y.Value, 0, 64)
			if oneErr == nil && otherErr == nil {
				return one != other
			}
		}
		return x.Value != y.Value
	}
	return show(a) != show(b)
}
