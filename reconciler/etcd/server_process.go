package etcd

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// serverProcess is a child process that runs a server.
type serverProcess struct {
	address string
	stdin   io.WriteCloser
	process *os.Process
	logger  *slog.Logger
	// checked is closed when the server has read its database, ready when it serves clients.
	checked, ready chan struct{}
	// logged is the last error that the server logged.
	logged atomic.Pointer[string]
	// ended is closed when the process has ended. The fields below are set before.
	ended chan struct{}
	// reason is why the process ended.
	reason error
	// inUse says that another process still used the data, killed that a signal ended the process.
	inUse, killed bool
}

// startServer starts a process, and returns before it is ready.
func startServer(request serverRequest, logger *slog.Logger) (*serverProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	line, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	command := exec.Command(self)
	command.Args[0] = "hfid (embedded etcd)"
	command.Env = append(os.Environ(), serverVariable+"=1", "GOTRACEBACK=single")
	var crash firstBytes
	command.Stderr = &crash
	command.WaitDelay = closeTimeout
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	p := &serverProcess{
		address: request.Address, stdin: stdin, process: command.Process, logger: logger,
		checked: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{}),
	}
	go func() {
		// A write that fails shows as a process that ends.
		_, _ = stdin.Write(append(line, '\n'))
		failure := p.listen(stdout)
		exit := command.Wait()
		p.conclude(failure, exit, crash.String())
		close(p.ended)
	}()
	return p, nil
}

// listen reads the server's messages until its end, and returns the one that says why.
func (p *serverProcess) listen(out io.Reader) (failure serverMessage) {
	scanner := bufio.NewScanner(out)
	scanner.Buffer(nil, 8*maxServerText)
	for scanner.Scan() {
		var message serverMessage
		if err := json.Unmarshal(scanner.Bytes(), &message); err != nil {
			continue // Something in etcd that prints.
		}
		switch {
		case message.Checked:
			close(p.checked)
		case message.MovedAside != "":
			p.logger.Warn("the embedded etcd's data have no log: starting without them", "moved_to", message.MovedAside)
		case message.Ready:
			close(p.ready)
		case message.Failed != "":
			failure = message
		case message.Logged != "":
			p.logged.Store(&message.Logged)
			p.logger.Debug("embedded etcd: " + message.Logged)
		}
	}
	if scanner.Err() != nil {
		_ = p.process.Kill()
	}
	return failure
}

// conclude sets why the process ended.
func (p *serverProcess) conclude(failure serverMessage, exit error, crash string) {
	var status *exec.ExitError
	p.killed = errors.As(exit, &status) && status.ExitCode() < 0
	p.inUse = failure.InUse
	switch {
	case failure.Errno != 0:
		p.reason = &serverError{text: failure.Failed, errno: failure.Errno}
	case failure.Failed != "":
		p.reason = errors.New(failure.Failed)
	case p.killed:
		p.reason = fmt.Errorf("its process was killed (%w); if nobody did that, the machine ran out of memory", exit)
	case crash != "":
		first, _, _ := strings.Cut(strings.TrimSpace(crash), "\n")
		p.reason = fmt.Errorf("its process crashed: %s%s", first, p.lastError())
	case exit != nil:
		p.reason = fmt.Errorf("its process ended: %w%s", exit, p.lastError())
	default:
		p.reason = errors.New("its process ended")
	}
}

func (p *serverProcess) wasReady() bool { return isClosed(p.ready) }

func (p *serverProcess) hasEnded() bool { return isClosed(p.ended) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func (p *serverProcess) lastError() string {
	if logged := p.logged.Load(); logged != nil {
		return " (before that: " + *logged + ")"
	}
	return ""
}

// stop stops the server, and reports whether it did so by itself within the limit.
func (p *serverProcess) stop(limit time.Duration) bool {
	go func() { _, _ = p.stdin.Write([]byte("stop\n")) }() // It returns at the process's end at the latest.
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		p.kill()
		return false
	}
}

// kill ends the process and waits for its end, though not for one that waits
// for a disk that hangs: no signal ends that before the disk answers.
func (p *serverProcess) kill() {
	_ = p.process.Kill()
	timer := time.NewTimer(killTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
	}
}

// serverError is an error of the operating system in the server's process.
type serverError struct {
	text  string
	errno syscall.Errno
}

func (e *serverError) Error() string { return e.text }
func (e *serverError) Unwrap() error { return e.errno }

// firstBytes keeps the first bytes written to it: of a crash, those say why.
type firstBytes struct{ bytes.Buffer }

func (b *firstBytes) Write(p []byte) (int, error) {
	if room := maxServerText - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
