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
	// perContext is the number of evaluations in one cue.Context, which never
	// frees memory.
	perContext = 256
	// maxRounds bounds the evaluations that search for all errors of a document,
	// maxFindings the errors reported for a file.
	maxRounds   = 100
	maxFindings = 100
)

// engine evaluates documents against the schema. One goroutine uses it at a time.
type engine struct {
	// limits, if set, are a part of the schema. Evaluating them may never end.
	limits *limitsFile
	ctx    *cue.Context
	// policy is #Policy, batch is #Batch.
	policy, batch cue.Value
	// used counts the evaluations in ctx.
	used int
}

// batchSchema is appended to policy.cue.
const batchSchema = "\n#Batch: [string]: #Policy\n"

// ready prepares a number of evaluations. It creates a new context when the
// current one has done perContext evaluations.
func (e *engine) ready(evaluations int) error {
	e.used += evaluations
	if e.ctx != nil && e.used <= perContext {
		return nil
	}
	e.ctx, e.used = cuecontext.New(), evaluations
	if e.limits != nil {
		e.use(e.limits.build(e.ctx))
		return nil
	}
	return e.compile(schema.CUE)
}

// use takes the definitions of a value.
func (e *engine) use(root cue.Value) {
	e.policy, e.batch = root.LookupPath(cue.ParsePath("#Policy")), root.LookupPath(cue.ParsePath("#Batch"))
}

// compile compiles a text as policy.cue.
func (e *engine) compile(text string) error {
	root := e.ctx.CompileString(text+batchSchema, cue.Filename("policy.cue"))
	e.use(root)
	if err := root.Err(); err != nil {
		return fmt.Errorf("compiling policy.cue: %w", err)
	}
	return nil
}

// accept reports whether all documents are valid. It is check for many documents
// at once, at less than half the cost, and accepts only documents that check
// accepts. It changes the documents: if it returns false, decode them again and
// call check for each. (BuildExpr in the schema's scope would be cheaper, but
// accepts unknown fields.)
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
	return e.ctx.BuildFile(together(documents)).Unify(e.batch).Validate(cue.Concrete(true)) == nil, nil
}

// together returns a file with all documents, each in a field with its index.
func together(documents []ast.Expr) *ast.File {
	all := &ast.File{}
	for i, document := range documents {
		all.Decls = append(all.Decls, &ast.Field{Label: ast.NewString(strconv.Itoa(i)), Value: document})
	}
	return all
}

// check validates one document as the cue command does. It returns the policy as
// JSON, or in invalid why the document is invalid. The error err means that there
// is no verdict.
func (e *engine) check(document ast.Expr) (text []byte, invalid, err error) {
	if err := e.ready(1); err != nil {
		return nil, nil, err
	}
	defer func() {
		if r := recover(); r != nil {
			// The input makes CUE panic. The cue command fails on it too.
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

// asFile wraps a document in a file as the cue command does.
func asFile(document ast.Expr) *ast.File {
	if x, ok := document.(*ast.StructLit); ok {
		return &ast.File{Decls: x.Elts}
	}
	return &ast.File{Decls: []ast.Decl{&ast.EmbedDecl{Expr: document}}}
}

// vet returns the policy of a document as JSON, or all problems of the document.
func (e *engine) vet(ctx context.Context, document ast.Expr) ([]byte, []schema.Problem, error) {
	// check resolves the tree in place, so explain needs a copy made before.
	draft := clone(document)
	text, invalid, err := e.check(document)
	if err != nil || invalid == nil {
		return text, nil, err
	}
	problems, err := e.explain(ctx, document, draft, invalid)
	return nil, problems, err
}

// explain finds all errors of an invalid document. CUE stops at the first error
// in a struct. So explain replaces each wrong value by a valid one and evaluates
// the document again, until CUE finds no more errors.
func (e *engine) explain(ctx context.Context, document, draft ast.Expr, invalid error) ([]schema.Problem, error) {
	if p := foreign(document); p != nil {
		return []schema.Problem{*p}, nil
	}
	problems := removeDuplicates(draft)
	if _, shortened, err := e.check(clone(draft)); err != nil {
		return nil, err
	} else if shortened != nil {
		invalid = shortened
	} else if len(problems) > 0 {
		return problems, nil
	}
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found := findings(draft, invalid)
		changed := false
		for i := range found {
			f := &found[i]
			// The errors of a struct's fields come before the error of the struct.
			if hasErrorBelow(found, f) {
				continue
			}
			if !reported(problems, f.problem) {
				problems = append(problems, f.problem)
			}
			changed = repair(&draft, f) || changed
		}
		if !changed || len(problems) >= maxFindings {
			break
		}
		var err error
		if _, invalid, err = e.check(clone(draft)); err != nil {
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

// reported reports whether a problem is in the list already.
func reported(problems []schema.Problem, p schema.Problem) bool {
	return slices.ContainsFunc(problems, func(q schema.Problem) bool {
		return p.Field == q.Field && p.Message == q.Message
	})
}

// hasErrorBelow reports whether there is an error below the place of a finding.
func hasErrorBelow(found []finding, f *finding) bool {
	return slices.ContainsFunc(found, func(other finding) bool {
		return len(other.at) > len(f.at) && slices.Equal(other.at[:len(f.at)], f.at)
	})
}

// repair changes a document so that CUE does not report a finding again. It
// reports whether the document has changed.
func repair(document *ast.Expr, f *finding) bool {
	if len(f.conditions) > 0 {
		return repairConditions(document, f)
	}
	if f.replacement != "" {
		return put(document, f.at, f.replacement)
	}
	_, parent, _ := node(*document, f.at[:len(f.at)-1])
	return remove(parent, f.at[len(f.at)-1])
}

// repairConditions removes all but one of a struct's conditions, or adds one if it has none.
func repairConditions(document *ast.Expr, f *finding) bool {
	_, value, _ := node(*document, f.at)
	if _, ok := value.(*ast.StructLit); !ok {
		return put(document, f.at, f.replacement)
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
