//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// process is a running program with its own log.
type process struct {
	name    string
	command *exec.Cmd
	// done is closed once the program has ended; err is set before.
	done chan struct{}
	err  error
}

// launch starts a program in a new process group. Its output is appended to
// logs/NAME.log.
func (l *Lab) launch(name string, command *exec.Cmd) (*process, error) {
	log, err := os.OpenFile(l.logFile(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	command.SysProcAttr.Setpgid = true
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{name: name, command: command, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = command.Wait()
	}()
	return p, nil
}

func (l *Lab) logFile(name string) string { return filepath.Join(l.folder, "logs", name+".log") }

// running reports whether the program still runs.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to the process group.
func (p *process) signal(number syscall.Signal) {
	if p.running() {
		_ = syscall.Kill(-p.command.Process.Pid, number)
	}
}

// stop sends SIGTERM, and SIGKILL after a grace period.
func (p *process) stop(grace time.Duration) {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	_ = syscall.Kill(-p.command.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// await polls until there is no error. It returns early if a process that it waits for ends.
func await(ctx context.Context, what string, limit time.Duration, needs *process, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		var ended <-chan struct{}
		if needs != nil {
			ended = needs.done
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w (last: %w)", what, ctx.Err(), err)
		case <-ended:
			return fmt.Errorf("waiting for %s: %s has ended: %w", what, needs.name, errors.Join(needs.err, err))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// run runs a program to its end. An error contains its output.
func run(ctx context.Context, command *exec.Cmd) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		if command.Process != nil {
			_ = command.Process.Kill()
		}
	})
	defer stop()
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%q: %w\n%s", command.Args, err, out)
	}
	return string(out), nil
}

// commandLimit bounds each command that the lab runs.
const commandLimit = time.Minute
