package cue

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/parser"

	"github.com/boifi/hfi/schema"
)

// limitsName is the file with a repository's limits, beside its copy of policy.cue.
const limitsName = "limits.cue"

// maxLimitsSize bounds a file of limits, in bytes.
const maxLimitsSize = 64 << 10

// limitsFile is a file with constraints on #Policy, in addition to those of policy.cue.
type limitsFile struct {
	// Path is the file's path for problems: relative to the repository's root, or
	// Workspace.LimitsFile.
	Path string
	// Own reports that it is Workspace.LimitsFile.
	Own  bool
	Text string
	// Problem says why the file cannot be read, or is nil.
	Problem *schema.Problem
}

// policyLimits are the limits of a commit, and whether they can be enforced.
type policyLimits struct {
	// repo are those of the repository, own those of Workspace.LimitsFile; nil if there are none.
	repo, own *limitsFile

	// mu guards what follows, while several checkers use the limits.
	mu sync.Mutex
	// problems say why the limits cannot be enforced. No commit is valid then.
	problems []schema.Problem
	// undecided reports that a limit on time or memory stopped the evaluation. The next
	// commit is validated as a whole, because the machine may have been busy.
	undecided bool
}

// files returns the limits to enforce: none if they cannot be enforced.
func (l *policyLimits) files() []limitsFile {
	l.mu.Lock()
	defer l.mu.Unlock()
	var files []limitsFile
	for _, f := range []*limitsFile{l.repo, l.own} {
		if f != nil && len(l.problems) == 0 {
			files = append(files, *f)
		}
	}
	return files
}

// path returns the path for a problem of all limits.
func (l *policyLimits) path() string {
	if l.repo != nil {
		return l.repo.Path
	}
	return l.own.Path
}

// fail notes why the limits cannot be enforced.
func (l *policyLimits) fail(undecided bool, problems ...schema.Problem) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) == 0 {
		l.problems, l.undecided = problems, undecided
	}
}

// unit has the problems of the limits. No file or package has its key.
func (l *policyLimits) unit() *unit { return &unit{key: "cue.mod/limits", errors: l.problems} }

// equal reports whether the limits are the same.
func (l *policyLimits) equal(other *policyLimits) bool {
	return l.repo.equal(other.repo) && l.own.equal(other.own)
}

func (f *limitsFile) equal(other *limitsFile) bool {
	if f == nil || other == nil || f.Problem == nil || other.Problem == nil {
		return f == other || f != nil && other != nil && *f == *other
	}
	return *f.Problem == *other.Problem
}

// limitsPath returns the path of the repository's limits.
func (p *packages) limitsPath() string { return path.Join(parent(p.schemaPath()), limitsName) }

// limitsOf returns the limits of a commit, not yet checked.
func (w *Workspace) limitsOf(p *packages) *policyLimits {
	l := &policyLimits{}
	at := p.limitsPath()
	if f := p.files[at]; f != nil {
		l.repo = &limitsFile{Path: at, Text: f.content, Problem: f.problem}
	}
	if w.LimitsFile != "" {
		l.own = readLimits(w.LimitsFile)
	}
	for _, f := range []*limitsFile{l.repo, l.own} {
		if f == nil {
			continue
		}
		if problem := f.examine(); problem != nil {
			l.problems = append(l.problems, *problem)
		}
	}
	return l
}

// readLimits reads a file of limits on disk.
func readLimits(name string) *limitsFile {
	f := &limitsFile{Path: name, Own: true}
	content, err := func() ([]byte, error) {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		return io.ReadAll(io.LimitReader(file, maxLimitsSize+1))
	}()
	if err != nil {
		f.Problem = &schema.Problem{File: name, Message: fmt.Sprintf("the limits cannot be read, so no commit is valid: %v", err)}
		return f
	}
	text, problem := text(content)
	if problem != nil {
		problem.File = name
		f.Problem = problem
	}
	f.Text = string(text)
	return f
}

// name says in a sentence which file it is.
func (f *limitsFile) name() string {
	if f.Own {
		return f.Path
	}
	return limitsName
}

// examine returns why the limits cannot be enforced, as far as their form shows it.
func (f *limitsFile) examine() (problem *schema.Problem) {
	if f.Problem != nil {
		return f.Problem
	}
	at := func(line, column int, format string, args ...any) *schema.Problem {
		return &schema.Problem{File: f.Path, Line: line, Column: column, Message: fmt.Sprintf(format, args...)}
	}
	if len(f.Text) > maxLimitsSize {
		return at(0, 0, "limits may have at most %d bytes", maxLimitsSize)
	}
	defer func() {
		if recover() != nil {
			problem = at(1, 1, "CUE cannot read this file")
		}
	}()
	syntax, err := parser.ParseFile(f.Path, f.Text, parser.ImportsOnly)
	if err != nil || syntax == nil {
		line, column := errorPlace(err)
		return at(line, column, "%s", firstLine(err))
	}
	var clause *ast.Package
	for _, decl := range syntax.Preamble() {
		line, column := nodePlace(decl)
		switch x := decl.(type) {
		case *ast.Attribute:
			// CUE may leave out a file with such an attribute.
			return at(line, column, "limits must always hold: remove the attribute %.60s", x.Text)
		case *ast.Package:
			clause = x
		}
	}
	switch name := syntax.PackageName(); {
	case clause == nil:
		return at(1, 1, "limits must begin with: package schema")
	case name != "schema":
		line, column := nodePlace(clause.Name)
		return at(line, column, "the package of limits must be schema, not %s", name)
	}
	for spec := range syntax.ImportSpecs() {
		// As in Go, the first part of the path of a package in a module has a dot.
		if first, _, _ := strings.Cut(strings.Trim(spec.Path.Value, `"#`), "/"); strings.Contains(first, ".") {
			line, column := nodePlace(spec)
			return at(line, column, "limits can import packages of CUE's standard library only, not %.100s", strings.Trim(spec.Path.Value, `"#`))
		}
	}
	return nil
}

// checker holds policies against limits, in a child process: limits are programs. One
// goroutine uses it at a time.
type checker struct {
	limits Limits
	of     *policyLimits
	child  *childProcess
	encode *gob.Encoder
	out    bytes.Buffer
	// late is the time that evaluations took in addition to what is usual.
	late time.Duration
}

// usualTime is more than a valid file needs, even on a busy machine.
const usualTime = 50 * time.Millisecond

// checkedFile is a file whose policies are valid without the limits.
type checkedFile struct {
	Path    string
	Content []byte
	unit    *unit
}

// compile notes whether the limits can be enforced.
func (c *checker) compile(ctx context.Context) error {
	if len(c.of.files()) == 0 {
		return nil
	}
	_, err := c.ready(ctx)
	return err
}

// check adds the errors of files to their units.
func (c *checker) check(ctx context.Context, files []checkedFile) error {
	if len(files) == 0 || len(c.of.files()) == 0 {
		return nil
	}
	if ok, err := c.ready(ctx); !ok || err != nil {
		return err
	}
	started := time.Now()
	answer, ok, err := c.ask(ctx, files, min(c.limits.EvalTimeout, c.limits.EvalTotal-c.late))
	if !ok || err != nil {
		return err
	}
	c.late += max(time.Since(started)-usualTime*time.Duration(len(files)), 0)
	for _, p := range answer.Errors {
		for _, f := range files {
			if f.Path == p.File {
				f.unit.errors, f.unit.entries = append(f.unit.errors, p), nil
			}
		}
	}
	return nil
}

// ready starts the child, if there is none. It returns false if the limits cannot be enforced.
func (c *checker) ready(ctx context.Context) (bool, error) {
	if c.child != nil {
		return true, nil
	}
	var err error
	if c.child, err = startChild(ctx); err != nil {
		return false, fmt.Errorf("starting a child process to evaluate limits: %w", err)
	}
	c.out.Reset()
	c.encode = gob.NewEncoder(&c.out)
	answer, ok, err := c.ask(ctx, &request{Limits: c.of.files(), Check: true, Depth: c.limits.MaxDepth, Memory: c.limits.EvalMemory / int64(max(c.limits.Workers, 1))}, c.limits.EvalTimeout+startTimeout)
	if ok && len(answer.Errors) > 0 {
		c.of.fail(false, answer.Errors...)
		ok = false
	}
	return ok, err
}

// ask sends a message and returns the answer. It returns false if there is none because
// of the limits.
func (c *checker) ask(ctx context.Context, message any, limit time.Duration) (response, bool, error) {
	if err := c.encode.Encode(message); err != nil {
		return response{}, false, fmt.Errorf("encoding policies: %w", err)
	}
	c.child.send(bytes.Clone(c.out.Bytes()))
	c.out.Reset()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var failed error
	select {
	case answer := <-c.child.lines:
		return answer, true, nil
	case failed = <-c.child.failed:
	case <-timer.C:
		failed = errTimeout
		c.child.kill()
	}
	child := c.child
	c.child = nil
	waitErr := child.end()
	if ctx.Err() != nil {
		return response{}, false, fmt.Errorf("evaluating limits: %w", context.Cause(ctx))
	}
	why, err := explainExit("the limits", c.limits, failed, child.ProcessState, child.stderr.String())
	if err != nil {
		return response{}, false, fmt.Errorf("%w (%v)", err, waitErr)
	}
	c.of.fail(true, schema.Problem{File: c.of.path(), Message: why.message})
	return response{}, false, nil
}

// close ends the child.
func (c *checker) close() {
	if c.child != nil {
		_ = c.child.end()
		c.child = nil
	}
}
