package cue

import (
	"context"
	"fmt"
	"strings"

	"cuelang.org/go/cue/ast"

	"github.com/boifi/hfi/schema"
)

const (
	// maxBatch is the maximum number of files in one evaluation: enough to share
	// its fixed cost, and few enough that one invalid file does not force many
	// others to be evaluated one by one.
	maxBatch = 32
	// maxBatchBytes bounds the JSON in one evaluation, in bytes. The aliases of a
	// YAML file may expand to a hundred times the file's size.
	maxBatchBytes = 64 << 10
)

// batch is a list of plain data files to evaluate together.
type batch struct {
	files     []*plainFile
	documents []ast.Expr
	bytes     int
}

// plainFile is a file with nothing but plain data (see plain).
type plainFile struct {
	change    *change
	unit      *unit
	content   []byte
	documents []ast.Expr
	policies  []plainPolicy
	// bytes is the length of the JSON of all policies.
	bytes int
}

// plainPolicy is a document as JSON, and its line in the file.
type plainPolicy struct {
	text []byte
	line int
}

// vetBatch fills in the units of YAML and JSON files. Most files are valid, so
// CUE evaluates many of them at once. If one of them is invalid, or is not plain
// data, CUE evaluates the files one by one.
func (w *Workspace) vetBatch(ctx context.Context, e *engine, check *checker, changes []*change, units []*unit) error {
	var b batch
	for i, c := range changes {
		content, problem, err := read(ctx, &c.File, w.MaxFileSize)
		if err != nil {
			return err
		}
		if problem != nil {
			units[i].errors = append(units[i].errors, *problem)
			continue
		}
		if !strings.HasSuffix(c.Path, ".json") {
			for _, warning := range yamlWarnings(content, w.Limits) {
				warning.File = c.Path
				units[i].warnings = append(units[i].warnings, warning)
			}
		}
		file := asPlain(c, units[i], content, w.Limits)
		if file == nil {
			err := w.vetFile(ctx, e, c, content, units[i])
			if err == nil && len(units[i].errors) == 0 {
				err = check.check(ctx, []checkedFile{{Path: c.Path, Content: content, unit: units[i]}})
			}
			if err != nil {
				return err
			}
			continue
		}
		if b.bytes+file.bytes > maxBatchBytes {
			if err := w.evaluateBatch(ctx, e, check, &b); err != nil {
				return err
			}
			b = batch{}
		}
		b.files = append(b.files, file)
		b.documents = append(b.documents, file.documents...)
		b.bytes += file.bytes
	}
	return w.evaluateBatch(ctx, e, check, &b)
}

// asPlain returns the file, or nil if it has anything but plain data.
func asPlain(c *change, u *unit, content []byte, limits Limits) *plainFile {
	documents, problem := decode(c.Path, content, limits)
	if problem != nil {
		return nil
	}
	file := &plainFile{change: c, unit: u, content: content, documents: documents}
	for _, document := range documents {
		text, ok := plain(nil, document)
		if file.bytes += len(text); !ok || file.bytes > maxBatchBytes {
			return nil
		}
		line, _ := nodePlace(document)
		file.policies = append(file.policies, plainPolicy{text, line})
	}
	return file
}

// evaluateBatch evaluates a batch and fills in its units.
func (w *Workspace) evaluateBatch(ctx context.Context, e *engine, check *checker, b *batch) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(b.files) == 0 {
		return nil
	}
	valid, err := e.accept(b.documents)
	if err != nil {
		return err
	}
	var files []checkedFile
	for _, file := range b.files {
		if valid {
			err = file.addPolicies()
		} else {
			err = w.vetFile(ctx, e, file.change, file.content, file.unit)
		}
		if err != nil {
			return err
		}
		if len(file.unit.errors) == 0 {
			files = append(files, checkedFile{Path: file.change.Path, Content: file.content, unit: file.unit})
		}
	}
	return check.check(ctx, files)
}

// addPolicies adds the policies of a valid file to its unit.
func (f *plainFile) addPolicies() error {
	for i, policy := range f.policies {
		if err := f.unit.addPolicy(policy.text, f.documents[i], schema.Origin{File: f.change.Path, Line: policy.line}); err != nil {
			return fmt.Errorf("%q: %w", f.change.Path, err)
		}
	}
	if len(f.unit.errors) > 0 {
		f.unit.entries = nil
	}
	return nil
}
