package cue

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/errors"

	"github.com/boifi/hfi/schema"
)

const (
	// perContext is how many evaluations share a cue.Context, which never
	// frees what it evaluated.
	perContext = 256
	// maxRounds bounds the search for all of a document's errors, and
	// maxFindings a file's.
	maxRounds   = 100
	maxFindings = 100
)

// engine evaluates documents against the schema. One goroutine uses it at a time.
type engine struct {
	ctx *cue.Context
	// policy is #Policy, and batch a struct of any names with one in each.
	policy, batch cue.Value
	used          int
}

// batchSchema stands behind policy.cue.
const batchSchema = "\n#Batch: [string]: #Policy\n"

// ready takes a new context when the old one has served enough.
func (e *engine) ready(evaluations int) error {
	e.used += evaluations
	if e.ctx != nil && e.used <= perContext {
		return nil
	}
	e.ctx, e.used = cuecontext.New(), evaluations
	return e.compile(schema.CUE)
}

// compile takes a text as policy.cue.
func (e *engine) compile(text string) error {
	root := e.ctx.CompileString(text+batchSchema, cue.Filename("policy.cue"))
	e.policy, e.batch = root.LookupPath(cue.ParsePath("#Policy")), root.LookupPath(cue.ParsePath("#Batch"))
	if err := root.Err(); err != nil {
		return fmt.Errorf("compiling policy.cue: %w", err)
	}
	return nil
}

// accept says whether CUE finds all of some documents valid: check for many at
// once, at less than half the price. What it says yes to, check would too.
// The documents are good for nothing else afterwards; when it says no, decode
// them again and ask check. (BuildExpr in the schema's scope would be cheaper
// still, but lets unknown fields pass.)
func (e *engine) accept(documents []ast.Expr) (valid bool, err error) {
	if err := e.ready(len(documents)); err != nil {
		return false, err
	}
	defer func() {
		if r := recover(); r != nil {
			e.ctx = nil
			valid, err = false, nil
		}
	}()
	all := &ast.File{}
	for i, document := range documents {
		all.Decls = append(all.Decls, &ast.Field{Label: ast.NewString(strconv.Itoa(i)), Value: document})
	}
	return e.ctx.BuildFile(all).Unify(e.batch).Validate(cue.Concrete(true)) == nil, nil
}

// check is the cue command's verdict on one document, and the policy as JSON
// if it is valid. The second error says that there is no verdict.
func (e *engine) check(document ast.Expr) (text []byte, invalid, err error) {
	if err := e.ready(1); err != nil {
		return nil, nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			// Somebody's text made CUE panic, as it makes the cue command, which fails.
			e.ctx = nil
			text, invalid, err = nil, errors.Newf(document.Pos(), "cannot be evaluated"), nil
		}
	}()
	value := e.ctx.BuildFile(asFile(document))
	if err := value.Err(); err != nil {
		return nil, err, nil
	}
	value = value.Unify(e.policy)
	if err := value.Validate(cue.Concrete(true)); err != nil {
		return nil, err, nil
	}
	text, err = value.MarshalJSON()
	if err != nil {
		return nil, nil, fmt.Errorf("writing a valid policy as JSON: %w", err)
	}
	return text, nil, nil
}

// asFile is a document as the cue command makes a file of it.
func asFile(document ast.Expr) *ast.File {
	if x, ok := document.(*ast.StructLit); ok {
		return &ast.File{Decls: x.Elts}
	}
	return &ast.File{Decls: []ast.Decl{&ast.EmbedDecl{Expr: document}}}
}

// vet is a document's policy as JSON, or all that is wrong with it.
func (e *engine) vet(ctx context.Context, document ast.Expr) ([]byte, []schema.Problem, error) {
	// BuildFile resolves the tree in place, so what may be changed is copied first.
	spare := clone(document)
	text, invalid, err := e.check(document)
	if err != nil || invalid == nil {
		return text, nil, err
	}
	problems, err := e.explain(ctx, document, spare, invalid)
	return nil, problems, err
}

// explain finds all errors of an invalid document. CUE stops at the first
// error in a struct; so what it found wrong is replaced by something valid,
// and CUE asked again, until it finds nothing more.
func (e *engine) explain(ctx context.Context, document, spare ast.Expr, invalid error) ([]schema.Problem, error) {
	var problems []schema.Problem
	if _, shortened, err := e.check(clone(spare)); err != nil {
		return nil, err
	} else if shortened != nil {
		invalid = shortened
	}
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found := findings(spare, invalid)
		changed := false
		for i := range found {
			f := &found[i]
			// An error of the whole struct waits for those of its fields.
			if waits(found, f) {
				continue
			}
			if !known(problems, f.problem) {
				problems = append(problems, f.problem)
			}
			changed = mend(&spare, f) || changed
		}
		if !changed || len(problems) >= maxFindings {
			break
		}
		var err error
		if _, invalid, err = e.check(clone(spare)); err != nil {
			return nil, err
		}
		if invalid == nil {
			break
		}
	}
	if len(problems) == 0 {
		problems = append(problems, fallback(document, nil).problem)
	}
	return problems, nil
}

func known(problems []schema.Problem, p schema.Problem) bool {
	return slices.ContainsFunc(problems, func(q schema.Problem) bool {
		return p.Field == q.Field && p.Message == q.Message
	})
}

func waits(found []finding, f *finding) bool {
	return slices.ContainsFunc(found, func(other finding) bool {
		return len(other.at) > len(f.at) && slices.Equal(other.at[:len(f.at)], f.at)
	})
}

func mend(document *ast.Expr, f *finding) bool {
	if len(f.conditions) > 0 {
		return oneOf(document, f)
	}
	if f.mend != "" {
		return put(document, f.at, f.mend)
	}
	_, parent, _ := node(*document, f.at[:len(f.at)-1])
	return remove(parent, f.at[len(f.at)-1])
}

// oneOf leaves a struct one of the conditions that it has, or gives it one.
func oneOf(document *ast.Expr, f *finding) bool {
	_, value, _ := node(*document, f.at)
	if _, ok := value.(*ast.StructLit); !ok {
		return put(document, f.at, f.mend)
	}
	kept := false
	for _, name := range f.conditions {
		if _, given, _ := node(value, fieldPath{name}); given == nil {
			continue
		}
		if kept {
			remove(value, name)
		}
		kept = true
	}
	if kept {
		return true
	}
	first := append(slices.Clone(f.at), f.conditions[0])
	return put(document, first, fields[first.general()].sample)
}
