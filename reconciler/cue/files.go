package cue

import (
	"context"
	"errors"
	"fmt"

	"cuelang.org/go/cue/ast"
	"golang.org/x/sync/errgroup"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// vetFiles returns the units of the changed files that are not CUE.
func (w *Workspace) vetFiles(ctx context.Context, changes []change, limits *policyLimits) ([]*unit, error) {
	units := make([]*unit, 0, len(changes))
	var work []*change
	var results []*unit
	for i := range changes {
		c := &changes[i]
		u := &unit{key: c.Path}
		switch before := w.files[c.Path]; {
		case c.Deleted:
			u.deleted = true
		case c.kind == refusedKind:
			u.errors = []schema.Problem{{File: c.Path, Message: c.Refusal}}
		case c.kind == wrongCaseKind:
			u.warnings = []schema.Problem{{File: c.Path, Message: "this file is ignored: its extension must be in lower case"}}
		case c.kind == documentKind:
			work = append(work, c)
			results = append(results, u)
		case before == nil:
			continue
		default: // the file had a unit before and may be CUE now
			u.deleted = true
		}
		units = append(units, u)
	}
	if err := w.vetAll(ctx, work, results, limits); err != nil {
		return nil, err
	}
	return units, nil
}

// vetAll fills in the units of YAML and JSON files.
func (w *Workspace) vetAll(ctx context.Context, work []*change, results []*unit, limits *policyLimits) error {
	workers := min(max(w.Workers, 1), len(work))
	share := 1
	if workers > 0 {
		// Small enough to keep all workers busy until the end.
		share = min(max(len(work)/(4*workers), 1), maxBatch)
	}
	for len(w.idle) < workers {
		w.idle = append(w.idle, &engine{})
	}
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan int)
	group.Go(func() error {
		defer close(next)
		for i := 0; i < len(work); i += share {
			select {
			case next <- i:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for i := range workers {
		group.Go(func() error {
			check := &checker{limits: w.Limits, of: limits}
			defer check.close()
			for from := range next {
				to := min(from+share, len(work))
				if err := w.vetBatch(ctx, w.idle[i], check, work[from:to], results[from:to]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// vetFile fills in the unit of one YAML or JSON file: its policies, or all its problems.
func (w *Workspace) vetFile(ctx context.Context, e *engine, c *change, content []byte, u *unit) error {
	documents, problem := decode(c.Path, content, w.Limits)
	if len(documents) > 0 && !hasText(content) {
		problem = &schema.Problem{Line: 1, Column: 1, Message: "the file has no policy; delete it, or give it another extension"}
		documents = nil
	}
	for _, doc := range documents {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(u.errors) >= maxFindings {
			u.errors = append(u.errors[:maxFindings], schema.Problem{
				File: c.Path, Message: fmt.Sprintf("there may be more errors: only the first %d are reported", maxFindings),
			})
			problem = nil
			break
		}
		line, _ := nodePlace(doc)
		text, problems, err := e.vet(ctx, doc)
		if err != nil {
			return fmt.Errorf("%q: %w", c.Path, err)
		}
		if len(problems) > 0 && isEmpty(content, doc) {
			problems = []schema.Problem{{Line: line, Column: 1, Message: "this document of the file is empty; remove the line with --- before it"}}
		}
		for _, p := range problems {
			p.File = c.Path
			u.errors = append(u.errors, p)
		}
		if len(problems) > 0 {
			continue
		}
		if err := u.addPolicy(text, doc, schema.Origin{File: c.Path, Line: line}); err != nil {
			return fmt.Errorf("%q: %w", c.Path, err)
		}
	}
	if problem != nil {
		problem.File = c.Path
		u.errors = append(u.errors, *problem)
	}
	if len(u.errors) > 0 {
		u.entries = nil
	}
	return nil
}

// addPolicy adds a valid policy, given as JSON and as the document that it was read from.
func (u *unit) addPolicy(text []byte, document ast.Expr, origin schema.Origin) error {
	entry, tooBig, err := entryOf(text, origin)
	if err != nil {
		return err
	}
	if tooBig != nil {
		u.errors = append(u.errors, *tooBig)
		return nil
	}
	u.addEntry(entry, document)
	return nil
}

// addEntry adds the entry of a valid policy, and its warnings. The document is nil for
// a policy of a package.
func (u *unit) addEntry(entry *schema.Entry, document ast.Expr) {
	u.entries = append(u.entries, entry)
	of, warnings := cost(entry)
	if u.weights == nil {
		u.weights = map[*schema.Entry]program.Weight{}
	}
	u.weights[entry] = of
	u.warnings = append(u.warnings, warnings...)
	if len(u.warnings) < maxFindings {
		u.warnings = append(u.warnings, valueWarnings(entry, document)...)
	}
}

// maxPolicySize bounds a policy's canonical JSON, in bytes. etcd's limit for a
// request is 1.5 MiB.
const maxPolicySize = 1 << 20

// entryOf returns the entry of a valid policy, or a problem if it is too large.
func entryOf(text []byte, origin schema.Origin) (*schema.Entry, *schema.Problem, error) {
	policy, err := schema.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("reading a policy that policy.cue accepts: %w", err)
	}
	entry := schema.NewEntry(policy, origin)
	if len(entry.Canonical) > maxPolicySize {
		return nil, &schema.Problem{
			File: origin.File, Line: origin.Line, Column: 1,
			Message: fmt.Sprintf("policy %q is larger than %d bytes as JSON", policy.Metadata.Name, maxPolicySize),
		}, nil
	}
	return entry, nil, nil
}

// read returns the content of a file, or a problem if it is too large.
func read(ctx context.Context, f *schema.File, limit int64) ([]byte, *schema.Problem, error) {
	content, err := f.Read(ctx, limit)
	var large *schema.TooLarge
	switch {
	case errors.As(err, &large):
		return nil, &schema.Problem{File: f.Path, Message: fmt.Sprintf("the file has %d bytes; the limit is %d", large.Size, limit)}, nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading %q: %w", f.Path, err)
	}
	return content, nil, nil
}
