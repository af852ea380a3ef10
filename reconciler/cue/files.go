package cue

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/boifi/hfi/schema"
)

// vetFiles gives the units of the changed files that stand for themselves:
// all but CUE.
func (w *Workspace) vetFiles(ctx context.Context, changes []change) ([]*unit, error) {
	units := make([]*unit, 0, len(changes))
	var work []*change
	var results []*unit
	for i := range changes {
		c := &changes[i]
		u := &unit{key: c.Path}
		switch before := w.files[c.Path]; {
		case c.Deleted:
			u.gone = true
		case c.kind == refusedKind:
			u.errors = []schema.Problem{{File: c.Path, Message: fmt.Sprintf("%s; only plain files and folders hold policies", c.Refusal)}}
		case c.kind == oddKind:
			u.warnings = []schema.Problem{{File: c.Path, Message: "this file is not read: its extension must be written in lower case"}}
		case c.kind == documentKind:
			work = append(work, c)
			results = append(results, u)
		case before == nil:
			continue
		default: // what was a unit may have become CUE
			u.gone = true
		}
		units = append(units, u)
	}
	if err := w.vetAll(ctx, work, results); err != nil {
		return nil, err
	}
	return units, nil
}

// vetAll fills in the units of YAML and JSON files.
func (w *Workspace) vetAll(ctx context.Context, work []*change, results []*unit) error {
	workers := min(max(w.Workers, 1), len(work))
	share := 1
	if workers > 0 {
		// Small enough that all workers have work to the end.
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
			for from := range next {
				to := min(from+share, len(work))
				if err := w.vetBatch(ctx, w.idle[i], work[from:to], results[from:to]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// vetFile fills in the unit of one YAML or JSON file: its policies, or all that is wrong with it.
func (w *Workspace) vetFile(ctx context.Context, e *engine, c *change, content []byte, u *unit) error {
	documents, problem := decode(c.Path, content, w.Limits)
	for _, doc := range documents {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(u.errors) >= maxFindings {
			u.errors = append(u.errors[:maxFindings], schema.Problem{
				File: c.Path, Message: fmt.Sprintf("there may be more errors: only the first %d are searched for", maxFindings),
			})
			problem = nil
			break
		}
		line, _ := nodePlace(doc)
		text, problems, err := e.vet(ctx, doc)
		if err != nil {
			return fmt.Errorf("%q: %w", c.Path, err)
		}
		for _, p := range problems {
			p.File = c.Path
			u.errors = append(u.errors, p)
		}
		if len(problems) > 0 {
			continue
		}
		if err := u.add(text, schema.Origin{File: c.Path, Line: line}); err != nil {
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

// add takes in a policy that CUE found valid, as JSON.
func (u *unit) add(text []byte, origin schema.Origin) error {
	entry, tooBig, err := entryOf(text, origin)
	if err != nil {
		return err
	}
	if tooBig != nil {
		u.errors = append(u.errors, *tooBig)
		return nil
	}
	u.take(entry)
	return nil
}

func (u *unit) take(entry *schema.Entry) {
	u.entries = append(u.entries, entry)
	u.warnings = append(u.warnings, leftOut(entry)...)
}

// maxPolicySize bounds a policy's canonical JSON, in bytes: etcd takes 1.5 MiB in one request.
const maxPolicySize = 1 << 20

// entryOf is the entry of a policy that CUE found valid.
func entryOf(text []byte, origin schema.Origin) (*schema.Entry, *schema.Problem, error) {
	policy, err := schema.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("policy.cue allows what package schema cannot read: %w", err)
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

// read gives a file's content, or says why it is not read.
func read(ctx context.Context, f *schema.File, limit int64) ([]byte, *schema.Problem, error) {
	content, err := f.Read(ctx, limit)
	var large *schema.TooLarge
	switch {
	case errors.As(err, &large):
		return nil, &schema.Problem{File: f.Path, Message: fmt.Sprintf("the file has %d bytes; at most %d are read", large.Size, limit)}, nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading %q: %w", f.Path, err)
	}
	return content, nil, nil
}
