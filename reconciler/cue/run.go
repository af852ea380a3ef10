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
	"sync"
	"time"

	"github.com/boifi/hfi/schema"
)

// perChild is the maximum number of packages that one child evaluates. A child
// does not free memory between packages.
const perChild = 64

// startTimeout is the time that a child may take to start on a busy machine, in
// addition to the time for the first package.
const startTimeout = 30 * time.Second

// evaluate returns the units of packages, and the folders of the packages that
// were stopped by a limit or not started in time. The next commit evaluates those
// again, because the machine may have been busy.
func (p *packages) evaluate(ctx context.Context, limits Limits, holding *policyLimits, folders []string) ([]*unit, map[string]bool, error) {
	var units []*unit
	undecided := map[string]bool{}
	giveUp := func(folder, message string) {
		undecided[folder] = true
		units = append(units, &unit{key: folder + "/", errors: []schema.Problem{p.packageProblem(folder, message)}})
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
		answers, failure, err := p.runChild(ctx, limits, holding, deadline, batch)
		if err != nil {
			return nil, nil, err
		}
		for _, answer := range answers {
			u, err := p.unitOf(answer)
			if err != nil {
				return nil, nil, err
			}
			units = append(units, u)
		}
		rest := batch[len(answers):]
		if len(rest) == 0 {
			continue
		}
		// A time limit applies to this package alone. Other failures may be caused
		// by the packages before it, so the package gets a child of its own.
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

// failure is the reason why a child did not finish a batch.
type failure struct {
	timeout bool
	message string
}

// runChild runs one child to evaluate a batch of packages before a deadline. It
// returns the answers in the order of the batch, and why there are not more. An
// error means that no child could be run.
func (p *packages) runChild(ctx context.Context, limits Limits, holding *policyLimits, deadline time.Time, batch []string) ([]response, failure, error) {
	var message bytes.Buffer
	if err := gob.NewEncoder(&message).Encode(p.request(limits, holding, batch)); err != nil {
		return nil, failure{}, fmt.Errorf("encoding CUE packages: %w", err)
	}
	child, err := startChild(ctx)
	if err != nil {
		return nil, failure{}, fmt.Errorf("starting a child process to evaluate CUE: %w", err)
	}
	child.send(message.Bytes())
	answers, readErr := collect(child.lines, child.failed, batch, limits.EvalTimeout, deadline)
	stopped := ctx.Err() != nil && !errors.Is(readErr, errTimeout) && !errors.Is(readErr, errNoTimeLeft)
	if len(answers) < len(batch) && readErr != nil && !errors.Is(readErr, io.EOF) {
		child.kill() // the child takes too long, or its output is invalid
	}
	waitErr := child.end()
	if stopped {
		return nil, failure{}, fmt.Errorf("evaluating CUE packages: %w", context.Cause(ctx))
	}
	if len(answers) == len(batch) {
		return answers, failure{}, nil
	}
	why, err := explainExit("the package", limits, readErr, child.ProcessState, child.stderr.String())
	if err != nil {
		return nil, failure{}, fmt.Errorf("%w (%v)", err, waitErr)
	}
	return answers, why, nil
}

// childProcess is a running child.
type childProcess struct {
	*exec.Cmd
	stdin  io.WriteCloser
	stdout io.Reader
	stderr prefixBuffer
	// kill ends the process.
	kill context.CancelFunc
	// lines has the child's responses, failed why there are no more.
	lines  chan response
	failed chan error
	// done is closed when nobody receives from lines any more.
	done chan struct{}
	// busy has the goroutines that read from and write to the child.
	busy sync.WaitGroup
}

// startChild runs this program again as a child, until ctx is done. The caller must call end.
func startChild(ctx context.Context) (*childProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	ctx, kill := context.WithCancel(ctx)
	child := &childProcess{
		Cmd: exec.CommandContext(ctx, self), kill: kill,
		lines: make(chan response), failed: make(chan error, 1), done: make(chan struct{}),
	}
	child.Env = []string{childVariable + "=1", "GOTRACEBACK=none"}
	child.Dir = os.TempDir()
	child.WaitDelay = 5 * time.Second
	child.Stderr = &child.stderr
	child.stdin, err = child.StdinPipe()
	if err == nil {
		child.stdout, err = child.StdoutPipe()
	}
	if err == nil {
		err = child.Start()
	}
	if err != nil {
		kill()
		return nil, err
	}
	child.busy.Go(func() { child.failed <- decodeLines(child.stdout, child.lines, child.done) })
	return child, nil
}

// send writes a message to the child, and returns at once.
func (c *childProcess) send(message []byte) {
	c.busy.Go(func() {
		// If the write fails, the child answers with an error. The pipe stays open,
		// because the child exits when it is closed.
		_, _ = c.stdin.Write(message)
	})
}

// end waits until the child has ended: by itself, because it was killed, or because its
// input ends.
func (c *childProcess) end() error {
	defer c.kill()
	close(c.done)
	_ = c.stdin.Close()
	err := c.Wait()
	c.busy.Wait()
	return err
}

// decodeLines sends the responses of a child to lines, until done is closed or
// the output ends.
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

// The reasons to stop a child: it sends nothing for too long, or the time for all
// packages is over.
var (
	errTimeout    = errors.New("the evaluation takes too long")
	errNoTimeLeft = errors.New("all packages together take too long")
)

// collect receives responses until the batch is complete, the child sends nothing
// for longer than limit, or the deadline has passed.
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
			return answers, errTimeout
		case <-over.C:
			return answers, errNoTimeLeft
		}
	}
	return answers, nil
}

// explainExit returns what the exit of a child means for what it was evaluating, the
// package or the limits. An error means that this is not the reason.
func explainExit(what string, limits Limits, readErr error, state *os.ProcessState, stderr string) (failure, error) {
	switch {
	case errors.Is(readErr, errNoTimeLeft):
		return failure{timeout: true, message: noTimeLeft(limits)}, nil
	case errors.Is(readErr, errTimeout):
		return failure{timeout: true, message: fmt.Sprintf("evaluating %s exceeds the time limit of %s", what, limits.EvalTimeout)}, nil
	case state.ExitCode() == exitMemory || slices.ContainsFunc(outOfMemory, func(sign string) bool { return strings.Contains(stderr, sign) }):
		return failure{message: fmt.Sprintf("evaluating %s exceeds the memory limit of %d MiB", what, limits.EvalMemory>>20)}, nil
	case strings.Contains(stderr, "stack overflow") || strings.Contains(stderr, "stack exceeds"):
		return failure{message: "CUE cannot evaluate " + what + ": the nesting is too deep"}, nil
	case state.ExitCode() == 2: // a panic or a fatal error of the Go runtime
		return failure{message: "CUE failed to evaluate " + what + ": " + firstText(stderr)}, nil
	}
	return failure{}, fmt.Errorf("the child process that evaluates CUE ended unexpectedly: %s: %.300s", state, strings.TrimSpace(stderr))
}

func noTimeLeft(limits Limits) string {
	return fmt.Sprintf("the package was not evaluated: all packages together exceed the time limit of %s", limits.EvalTotal)
}

// outOfMemory has the messages of the Go runtime at the kernel's memory limit,
// and those of the race detector.
var outOfMemory = []string{"out of memory", "cannot allocate memory", "failed to allocate"}

func firstText(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return fmt.Sprintf("%.200s", line)
}

// prefixBuffer keeps the first maxPrefix bytes written to it.
type prefixBuffer struct{ bytes.Buffer }

const maxPrefix = 16 << 10

func (t *prefixBuffer) Write(p []byte) (int, error) {
	if room := maxPrefix - t.Len(); room > 0 {
		t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
