package cue

import (
	"context"
	"fmt"

	"cuelang.org/go/cue/ast"

	"github.com/boifi/hfi/schema"
)

const (
	// maxBatch is how many files are given to CUE at once: enough to share what
	// an evaluation costs besides the documents, and few enough that a bad one
	// among them does not send many others the long way.
	maxBatch = 32
	// maxBatchBytes bounds how much is given to CUE at once, as JSON: a YAML
	// file's aliases may stand for a hundred times its size.
	maxBatchBytes = 64 << 10
)

// batch is files of plain data, which wait to be given to CUE together.
type batch struct {
	files     []*plainFile
	documents []ast.Expr
	bytes     int
}

// plainFile is a file that holds nothing but plain data.
type plainFile struct {
	change    *change
	unit      *unit
	content   []byte
	documents []ast.Expr
	policies  []plainPolicy
	// bytes is the length of all policies.
	bytes int
}

// plainPolicy is a document as JSON, and where it stands.
type plainPolicy struct {
	text []byte
	line int
}

// vetBatch fills in the units of YAML and JSON files. Valid files are the
// rule, so CUE is asked about many at once whether they are, and about each
// of them by itself only when one is not, or is not plain data.
func (w *Workspace) vetBatch(ctx context.Context, e *engine, changes []*change, units []*unit) error {
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
		file := asPlain(c, units[i], content, w.Limits)
		if file == nil {
			if err := w.vetFile(ctx, e, c, content, units[i]); err != nil {
				return err
			}
			continue
		}
		if b.bytes+file.bytes > maxBatchBytes {
			if err := w.settle(ctx, e, &b); err != nil {
				return err
			}
			b = batch{}
		}
		b.files = append(b.files, file)
		b.documents = append(b.documents, file.documents...)
		b.bytes += file.bytes
	}
	return w.settle(ctx, e, &b)
}

// asPlain is a file that holds nothing but plain data, or nil.
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

// settle fills in the units of a batch.
func (w *Workspace) settle(ctx context.Context, e *engine, b *batch) error {
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
	for _, file := range b.files {
		if valid {
			err = file.take()
		} else {
			err = w.vetFile(ctx, e, file.change, file.content, file.unit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// take makes the policies of a file that CUE found valid.
func (f *plainFile) take() error {
	for _, policy := range f.policies {
		if err := f.unit.add(policy.text, schema.Origin{File: f.change.Path, Line: policy.line}); err != nil {
			return fmt.Errorf("%q: %w", f.change.Path, err)
		}
	}
	if len(f.unit.errors) > 0 {
		f.unit.entries = nil
	}
	return nil
}
