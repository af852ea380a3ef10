// Package cue says whether the policy files of a commit are valid, and what
// is wrong with them: it asks CUE, with policy.cue. It is the one package that
// imports CUE. YAML and JSON files are evaluated here; packages of CUE, which
// are programs, in a child process (see RunChild).
package cue

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Limits bound what somebody's files can cost. README.md names them.
type Limits struct {
	// Workers is how many files are evaluated at once.
	Workers int
	// MaxFileSize is in bytes; a larger file is never read.
	MaxFileSize int64
	// MaxDepth is how many mappings and lists of YAML or JSON may stand in each other.
	MaxDepth int
	// EvalTimeout is the time for one package of CUE.
	EvalTimeout time.Duration
	// EvalTotal is the time for all packages of CUE of one delta: however many
	// are slow, there is a verdict.
	EvalTotal time.Duration
	// EvalMemory is in bytes, for the child process that evaluates packages of CUE.
	EvalMemory int64
}

// The limits that New sets.
const (
	DefaultWorkers     = 2
	DefaultMaxFileSize = 1 << 20
	DefaultMaxDepth    = 32
	DefaultEvalTimeout = 10 * time.Second
	// DefaultEvalTotal leaves a reconciler time for the rest of its StepTimeout.
	DefaultEvalTotal  = time.Minute
	DefaultEvalMemory = 512 << 20
)

// Workspace is the policy files of the last commit taken in, with their
// verdicts. It implements reconciler.Validator. Its methods may be called by
// several goroutines; deltas are taken in one at a time.
type Workspace struct {
	Limits
	// Now is the clock that says which policies have expired.
	Now reconciler.Clock

	policyPath string

	mu   sync.Mutex
	base string
	// files are all files that matter, by path; those that hold no policy
	// and no CUE are not in it.
	files map[string]*file
	index *index
	cue   *packages
	idle  []*engine
}

// file is what is remembered of a file.
type file struct {
	kind    kind
	id      string
	refusal string
}

var _ reconciler.Validator = (*Workspace)(nil)

// New makes a workspace for the policies below a folder, which is relative
// to the repository's root; "" or "." is the root itself.
func New(policyPath string) *Workspace {
	policyPath = strings.Trim(path.Clean("/"+policyPath), "/")
	return &Workspace{
		Limits: Limits{
			Workers:     DefaultWorkers,
			MaxFileSize: DefaultMaxFileSize,
			MaxDepth:    DefaultMaxDepth,
			EvalTimeout: DefaultEvalTimeout,
			EvalTotal:   DefaultEvalTotal,
			EvalMemory:  DefaultEvalMemory,
		},
		Now:        time.Now,
		policyPath: policyPath,
		files:      map[string]*file{},
		index:      newIndex(),
		cue:        newPackages(policyPath),
	}
}

// Base is the commit of the last delta taken in, or empty.
func (w *Workspace) Base() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base
}

// Apply takes in a delta and says what the commit holds. What has not
// changed is neither read nor evaluated. An error means that there is no
// verdict, and that nothing of the delta was taken in.
func (w *Workspace) Apply(ctx context.Context, delta *reconciler.Delta) (*schema.Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delta.Base != "" && delta.Base != w.base {
		return nil, fmt.Errorf("vetting %s: the delta starts at %s, but the last commit vetted is %q", delta.Commit.Hash, delta.Base, w.base)
	}
	changes := w.changes(delta)
	units, err := w.vetFiles(ctx, changes)
	if err != nil {
		return nil, fmt.Errorf("vetting %s: %w", delta.Commit.Hash, err)
	}
	next, packageUnits, err := w.cue.apply(ctx, w.Limits, changes)
	if err != nil {
		return nil, fmt.Errorf("vetting %s: %w", delta.Commit.Hash, err)
	}

	// From here on nothing fails.
	for _, c := range changes {
		if c.kind == ignoredKind || c.Deleted {
			delete(w.files, c.Path)
		} else {
			w.files[c.Path] = &file{kind: c.kind, id: c.ID, refusal: c.Refusal}
		}
	}
	w.base = delta.Commit.Hash
	w.cue = next
	w.index.update(append(units, packageUnits...))
	verdict := w.index.verdict(w.Now())
	verdict.Warnings = append(verdict.Warnings, delta.Warnings...)
	slices.SortFunc(verdict.Warnings, schema.CompareProblems)
	return verdict, nil
}

// change is a file that is not as it was.
type change struct {
	schema.File
	kind kind
}

// changes are the files of a delta that differ from what is remembered.
func (w *Workspace) changes(delta *reconciler.Delta) []change {
	var changes []change
	listed := map[string]bool{}
	for _, f := range delta.Files {
		listed[f.Path] = true
		before := w.files[f.Path]
		c := change{File: f, kind: kindOf(w.policyPath, &f)}
		switch {
		case f.Deleted || c.kind == ignoredKind:
			if before != nil {
				c.Deleted = true
				changes = append(changes, c)
			}
		case before == nil || before.id != f.ID || before.kind != c.kind || before.refusal != f.Refusal:
			changes = append(changes, c)
		}
	}
	if delta.Base == "" {
		for path := range w.files {
			if !listed[path] {
				changes = append(changes, change{File: schema.File{Path: path, Deleted: true}})
			}
		}
	}
	for i := range changes {
		if before := w.files[changes[i].Path]; changes[i].Deleted && before != nil {
			changes[i].kind = before.kind
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(a.Path, b.Path) })
	return changes
}

// kind is what a file is to hfi, which its name says.
type kind int

const (
	ignoredKind  kind = iota
	documentKind      // YAML or JSON, in the policy folder
	cueKind           // CUE, anywhere
	moduleKind        // anything in a cue.mod
	refusedKind       // cannot be a policy whatever its name is
	oddKind           // named so that its author may think that it is read
)

func kindOf(policyPath string, f *schema.File) kind {
	inside, below := f.Path, true
	if policyPath != "" {
		inside, below = strings.CutPrefix(f.Path, policyPath+"/")
	}
	steps := strings.Split(f.Path, "/")
	if slices.Contains(steps, "cue.mod") {
		if f.Refusal != "" && steps[len(steps)-1] == "cue.mod" {
			return refusedKind
		}
		return moduleKind
	}
	if below {
		steps = strings.Split(inside, "/")
	}
	if slices.ContainsFunc(steps, func(step string) bool { return strings.HasPrefix(step, ".") }) {
		return ignoredKind
	}
	extension := path.Ext(f.Path)
	switch {
	case f.Refusal != "" && below:
		return refusedKind
	case f.Refusal != "":
		return ignoredKind
	case extension == ".cue":
		return cueKind
	case !below:
		return ignoredKind
	case extension == ".yaml" || extension == ".yml" || extension == ".json":
		return documentKind
	}
	switch strings.ToLower(extension) {
	case ".yaml", ".yml", ".json", ".cue":
		return oddKind
	}
	return ignoredKind
}
