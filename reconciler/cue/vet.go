// Package cue validates the policy files of a commit with CUE and policy.cue, and
// explains their errors. It is the only package that imports CUE. YAML and JSON
// files are evaluated in this process. CUE packages are programs, and are
// evaluated in a child process (see RunChild).
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

// Limits bound the cost of validating files, which are not trusted. README.md
// lists them.
type Limits struct {
	// Workers is the number of goroutines that evaluate YAML and JSON files.
	Workers int
	// MaxFileSize is in bytes. Larger files are not read.
	MaxFileSize int64
	// MaxDepth is the maximum nesting depth of mappings and lists in YAML or JSON.
	MaxDepth int
	// EvalTimeout is the time limit for one CUE package.
	EvalTimeout time.Duration
	// EvalTotal is the time limit for all CUE packages of one delta. Packages that
	// exceed it are errors, so that there is always a verdict.
	EvalTotal time.Duration
	// EvalMemory is the memory limit, in bytes, of the child process that
	// evaluates CUE packages.
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

// Workspace has the policy files of the last commit that was applied, with the
// results of their validation. It implements reconciler.Validator. Its methods
// may be called by several goroutines; deltas are applied one at a time.
type Workspace struct {
	Limits
	// Now is the clock that decides which policies have expired.
	Now reconciler.Clock
	// LimitsFile is the path of a file with limits that hold besides those of the
	// repository. It is read for every delta. Empty if there is none.
	LimitsFile string

	policyPath string

	mu   sync.Mutex
	base string
	// whole reports that the next delta must be a whole commit.
	whole bool
	// policyLimits are those of the last delta.
	policyLimits *policyLimits
	// files has the files with policies or CUE, by path.
	files map[string]*file
	index *index
	cue   *packages
	idle  []*engine
}

// file identifies the version of a file that was validated last.
type file struct {
	kind    kind
	id      string
	refusal string
}

var _ reconciler.Validator = (*Workspace)(nil)

// New returns a workspace for the policies below a folder, which is relative to
// the repository's root. "" or "." is the root itself.
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

		policyLimits: &policyLimits{},
	}
}

// Base returns the commit of the last delta that was applied. It returns "" if there is
// none, or if the next delta must be a whole commit.
func (w *Workspace) Base() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.whole {
		return ""
	}
	return w.base
}

// Stale reports that LimitsFile has changed since the last delta.
func (w *Workspace) Stale() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.base != "" && w.LimitsFile != "" && !readLimits(w.LimitsFile).equal(w.policyLimits.own)
}

// Apply applies a delta and returns the verdict on its commit. Files that have
// not changed are neither read nor evaluated, unless the limits have changed: then all
// files are, and a delta that has not all of them is refused with ErrWholeCommit. An
// error means that there is no verdict and that the workspace has not changed.
func (w *Workspace) Apply(ctx context.Context, delta *reconciler.Delta) (*schema.Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if delta.Base != "" && delta.Base != w.base {
		return nil, fmt.Errorf("validating commit %s: the base of the delta is %s, but the last validated commit is %q", delta.Commit.Hash, delta.Base, w.base)
	}
	changes := w.changes(delta, false)
	next, err := w.cue.with(ctx, w.Limits, changes)
	if err != nil {
		return nil, fmt.Errorf("validating commit %s: %w", delta.Commit.Hash, err)
	}
	limits := w.limitsOf(next)
	again := w.whole || !limits.equal(w.policyLimits)
	if again {
		if delta.Base != "" {
			w.whole = true
			return nil, fmt.Errorf("validating commit %s: %w", delta.Commit.Hash, reconciler.ErrWholeCommit)
		}
		changes = w.changes(delta, true)
		first := &checker{limits: w.Limits, of: limits}
		err := first.compile(ctx)
		first.close()
		if err != nil {
			return nil, fmt.Errorf("validating commit %s: %w", delta.Commit.Hash, err)
		}
	} else {
		limits = w.policyLimits
	}
	units, err := w.vetFiles(ctx, changes, limits)
	if err != nil {
		return nil, fmt.Errorf("validating commit %s: %w", delta.Commit.Hash, err)
	}
	packageUnits, err := next.evaluateChanged(ctx, w.Limits, w.cue, changes, limits, again)
	if err != nil {
		return nil, fmt.Errorf("validating commit %s: %w", delta.Commit.Hash, err)
	}
	units = append(units, limits.unit())

	// Nothing fails from here on.
	for _, c := range changes {
		if c.kind == ignoredKind || c.Deleted {
			delete(w.files, c.Path)
		} else {
			w.files[c.Path] = &file{kind: c.kind, id: c.ID, refusal: c.Refusal}
		}
	}
	w.base, w.whole = delta.Commit.Hash, limits.undecided
	w.cue, w.policyLimits = next, limits
	w.index.update(append(units, packageUnits...))
	verdict := w.index.verdict(w.Now())
	verdict.Warnings = append(verdict.Warnings, delta.Warnings...)
	slices.SortFunc(verdict.Warnings, schema.CompareProblems)
	return verdict, nil
}

// change is a file that has changed.
type change struct {
	schema.File
	kind kind
}

// changes returns the files of a delta that differ from the last validated version. With
// again set, they include all YAML and JSON files.
func (w *Workspace) changes(delta *reconciler.Delta, again bool) []change {
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
		case again && c.kind == documentKind, before == nil || before.id != f.ID || before.kind != c.kind || before.refusal != f.Refusal:
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

// kind is how hfi treats a file. It depends on the file's name.
type kind int

const (
	ignoredKind   kind = iota
	documentKind       // YAML or JSON, in the policy folder
	cueKind            // CUE, anywhere
	moduleKind         // anything in a cue.mod
	refusedKind        // cannot contain a policy, whatever its name is
	wrongCaseKind      // ignored, but its extension suggests that it is not
)

// kindOf returns the kind of a file.
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
		return wrongCaseKind
	}
	return ignoredKind
}
