package cue

import (
	"bufio"
	"bytes"
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/schema"
)

// perChild is how many packages one child evaluates: it frees nothing in between.
const perChild = 64

// startTimeout is how long a child may take to start, beside the time for
// the first package. A machine may be busy.
const startTimeout = 30 * time.Second

// evaluate gives the units of packages, and those that a limit stopped or left
// no time for: they are tried again, since it may have been the machine.
func (p *packages) evaluate(ctx context.Context, limits Limits, folders []string) ([]*unit, map[string]bool, error) {
	var units []*unit
	undecided := map[string]bool{}
	giveUp := func(folder, message string) {
		undecided[folder] = true
		units = append(units, &unit{key: folder + "/", errors: []schema.Problem{p.place(folder, message)}})
	}
	deadline := time.Now().Add(limits.EvalTotal)
	todo := slices.Collect(slices.Chunk(folders, perChild))
	for len(todo) > 0 {
		batch := todo[0]
		todo = todo[1:]
		if !time.Now().Before(deadline) {
			for _, folder := range batch {
				giveUp(folder, noTimeLeft(limits))
			}
			continue
		}
		answers, failure, err := p.runChild(ctx, limits, deadline, batch)
		if err != nil {
			return nil, nil, err
		}
		for _, answer := range answers {
			u, err := p.unit(answer)
			if err != nil {
				return nil, nil, err
			}
			units = append(units, u)
		}
		rest := batch[len(answers):]
		if len(rest) == 0 {
			continue
		}
		// A time limit is this package's own. What else ended the child may
		// have come from those before, so the package gets a child to itself.
		if failure.timeout || len(batch) == 1 {
			giveUp(rest[0], failure.message)
		} else {
			todo = append(todo, rest[:1])
		}
		if len(rest) > 1 {
			todo = append(todo, rest[1:])
		}
	}
	return units, undecided, nil
}

// failure is why a child did not finish.
type failure struct {
	timeout bool
	message string
}

// runChild has one child evaluate a batch of packages, until a deadline at the
// latest. It gives the answers that came, in the batch's order, and why there
// are not more. An error means that no child could be run.
func (p *packages) runChild(ctx context.Context, limits Limits, deadline time.Time, batch []string) ([]response, failure, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var message bytes.Buffer
	if err := gob.NewEncoder(&message).Encode(p.request(limits, batch)); err != nil {
		return nil, failure{}, fmt.Errorf("encoding packages of CUE: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, failure{}, fmt.Errorf("finding this program, to evaluate CUE in a child process: %w", err)
	}
	child := exec.CommandContext(ctx, self)
	child.Env = []string{childVariable + "=1", "GOTRACEBACK=none"}
	child.Dir = os.TempDir()
	child.WaitDelay = 5 * time.Second
	var stderr tail
	child.Stderr = &stderr
	stdin, err := child.StdinPipe()
	if err != nil {
		return nil, failure{}, fmt.Errorf("starting a child process to evaluate CUE: %w", err)
	}
	stdout, err := child.StdoutPipe()
	if err != nil {
		return nil, failure{}, fmt.Errorf("starting a child process to evaluate CUE: %w", err)
	}
	if err := child.Start(); err != nil {
		return nil, failure{}, fmt.Errorf("starting a child process to evaluate CUE: %w", err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		// An error shows in the child's answer. The pipe stays open: its end is the child's.
		_, _ = stdin.Write(message.Bytes())
	}()
	lines := make(chan response)
	failed := make(chan error, 1)
	done := make(chan struct{})
	read := make(chan struct{})
	go func() {
		defer close(read)
		failed <- decodeLines(stdout, lines, done)
	}()
	answers, readErr := collect(lines, failed, batch, limits.EvalTimeout, deadline)
	close(done)
	stopped := ctx.Err() != nil && !errors.Is(readErr, errSlow) && !errors.Is(readErr, errNoTimeLeft)
	if len(answers) < len(batch) && readErr != nil && !errors.Is(readErr, io.EOF) {
		cancel() // it takes too long, or writes what no child of ours writes
	}
	_ = stdin.Close()
	waitErr := child.Wait()
	<-written
	<-read
	if stopped {
		return nil, failure{}, fmt.Errorf("evaluating packages of CUE: %w", context.Cause(ctx))
	}
	if len(answers) == len(batch) {
		return answers, failure{}, nil
	}
	why, err := explainExit(limits, readErr, child.ProcessState, stderr.String())
	if err != nil {
		return nil, failure{}, fmt.Errorf("%w (%v)", err, waitErr)
	}
	return answers, why, nil
}

// decodeLines passes on what a child writes, until done is closed or the child's end.
func decodeLines(out io.Reader, lines chan<- response, done <-chan struct{}) error {
	decoder := json.NewDecoder(bufio.NewReader(out))
	for {
		var line response
		if err := decoder.Decode(&line); err != nil {
			return err
		}
		select {
		case lines <- line:
		case <-done:
			return nil
		}
	}
}

// The reasons to stop a child: it is silent for too long, or the time for all
// packages is over.
var (
	errSlow       = errors.New("the package takes too long")
	errNoTimeLeft = errors.New("all packages together take too long")
)

// collect waits until the batch is answered, the child is silent for too long,
// or the deadline has come.
func collect(lines <-chan response, failed <-chan error, batch []string, limit time.Duration, deadline time.Time) ([]response, error) {
	timer := time.NewTimer(limit + startTimeout)
	defer timer.Stop()
	over := time.NewTimer(time.Until(deadline))
	defer over.Stop()
	var answers []response
	for len(answers) < len(batch) {
		select {
		case line := <-lines:
			if line.Folder != batch[len(answers)] {
				return answers, fmt.Errorf("the child answered about %q instead of %q", line.Folder, batch[len(answers)])
			}
			timer.Reset(limit)
			if !line.Begin {
				answers = append(answers, line)
			}
		case err := <-failed:
			return answers, err
		case <-timer.C:
			return answers, errSlow
		case <-over.C:
			return answers, errNoTimeLeft
		}
	}
	return answers, nil
}

// explainExit says what a child's end means for the package that it was at.
// An error means that the child's end says nothing about the package.
func explainExit(limits Limits, readErr error, state *os.ProcessState, stderr string) (failure, error) {
	switch {
	case errors.Is(readErr, errNoTimeLeft):
		return failure{timeout: true, message: noTimeLeft(limits)}, nil
	case errors.Is(readErr, errSlow):
		return failure{timeout: true, message: fmt.Sprintf("the package takes longer than the time limit of %s to evaluate", limits.EvalTimeout)}, nil
	case state.ExitCode() == exitMemory || slices.ContainsFunc(outOfMemory, func(sign string) bool { return strings.Contains(stderr, sign) }):
		return failure{message: fmt.Sprintf("the package takes more than the memory limit of %d MiB to evaluate", limits.EvalMemory>>20)}, nil
	case strings.Contains(stderr, "stack overflow") || strings.Contains(stderr, "stack exceeds"):
		return failure{message: "the package is nested too deeply for CUE to evaluate"}, nil
	case state.ExitCode() == 2: // the Go runtime's, for a panic or a fatal error
		return failure{message: "CUE fails when it evaluates the package: " + firstText(stderr)}, nil
	}
	return failure{}, fmt.Errorf("the child process that evaluates CUE ended by itself: %s: %.300s", state, strings.TrimSpace(stderr))
}

func noTimeLeft(limits Limits) string {
	return fmt.Sprintf("the time limit of %s for all packages together is over, and the package is not evaluated", limits.EvalTotal)
}

// outOfMemory is what the Go runtime says at the kernel's limit, and the race detector's.
var outOfMemory = []string{"out of memory", "cannot allocate memory", "failed to allocate"}

func firstText(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return fmt.Sprintf("%.200s", line)
}

// tail keeps the beginning of what is written to it.
type tail struct{ bytes.Buffer }

const maxTail = 16 << 10

func (t *tail) Write(p []byte) (int, error) {
	if room := maxTail - t.Len(); room > 0 {
		t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// request is what a child must know to evaluate some packages: their files
// and those of what they import, the module, and the schema.
func (p *packages) request(limits Limits, batch []string) *request {
	wanted := map[string]bool{}
	for _, folder := range batch {
		for key := range p.needs[folder] {
			wanted[key] = true
		}
	}
	r := &request{
		Files: map[string]string{}, PolicyPath: p.policyPath, Root: p.root, Targets: batch, Memory: limits.EvalMemory,
	}
	if !p.hasModule {
		r.Root = p.policyPath
	}
	for _, f := range p.files {
		if f.problem != nil && !f.broken {
			continue
		}
		if p.inCueMod(f.path) {
			if above, _, _ := strings.Cut("/"+f.path, "/cue.mod"); above != "" && strings.Trim(above, "/") != p.root {
				r.Modules = append(r.Modules, strings.Trim(above, "/"))
			}
			if p.hasModule && under(f.path, join(p.root, "cue.mod")) && !p.isSchema(f.path) {
				r.Files[f.path] = f.content
			}
		} else if slices.ContainsFunc(f.keys(), func(key string) bool { return wanted[key] }) && !p.isSchema(f.path) {
			r.Files[f.path] = f.content
		}
	}
	if p.hasModule {
		r.Files[p.schemaPath()] = schema.CUE
	}
	return r
}

// unit is what a child's answer comes to.
func (p *packages) unit(answer response) (*unit, error) {
	u := &unit{key: answer.Folder + "/", errors: answer.Errors}
	for i := range u.errors {
		if u.errors[i].File == "" {
			u.errors[i].File = p.place(answer.Folder, "").File
		}
	}
	for _, f := range p.files {
		if f.problem != nil && f.broken && parent(f.path) == answer.Folder {
			u.errors = append(u.errors, *f.problem)
		}
	}
	for _, policy := range answer.Policies {
		origin := schema.Origin{File: policy.File, Line: policy.Line}
		if origin.File == "" {
			at := p.place(answer.Folder, "")
			origin.File, origin.Line = at.File, 1
		}
		entry, tooBig, err := entryOf(policy.JSON, origin)
		if err != nil {
			return nil, err
		}
		if tooBig != nil {
			u.errors = append(u.errors, *tooBig)
			continue
		}
		u.take(entry)
	}
	if len(u.errors) > 0 {
		u.entries = nil
	}
	return u, nil
}

// place is a problem of a whole package, at its first file.
func (p *packages) place(folder, message string) schema.Problem {
	problem := schema.Problem{Message: message}
	for _, f := range p.files {
		if parent(f.path) == folder && strings.HasSuffix(f.path, ".cue") && (problem.File == "" || f.path < problem.File) {
			problem.File = f.path
		}
	}
	return problem
}
