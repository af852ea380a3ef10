package hfidtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/testtool"
)

// WaitLimit bounds every wait, with a margin for a busy machine.
const WaitLimit = testtool.WaitLimit

// Daemon is an hfid with a data folder, of which a test may start several
// processes in sequence. Its methods are safe for concurrent use, but only the
// test's goroutine may call those that fail the test.
type Daemon struct {
	// DataDir is the data folder. It stays the same across restarts.
	DataDir string
	// LogFile has the standard error of all processes.
	LogFile string
	// MaxFiles, if not zero, is the most files that its processes may have open.
	MaxFiles int

	t         testing.TB
	arguments []string

	mu  sync.Mutex
	run *process
}

// process is one process of the daemon, between a start and its end.
type process struct {
	process *os.Process
	started time.Time
	// logFrom is the offset of this process's log in LogFile.
	logFrom int64
	// exited is closed once the process ended and err is set.
	exited chan struct{}
	err    error
	// url is empty until the process listens.
	url string
}

// New returns a daemon for a repository without starting it. The arguments are
// additional flags, which override the package's own. All daemons with an external
// etcd have the same state key, unless there is a flag for it. At the end of the test
// the daemon is killed, and its log is shown if the test failed.
func New(t testing.TB, repo string, arguments ...string) *Daemon {
	t.Helper()
	base := t.TempDir()
	d := &Daemon{t: t, DataDir: filepath.Join(base, "data"), LogFile: filepath.Join(base, "hfid.log")}
	d.arguments = append([]string{"--repo", repo, "--listen", "127.0.0.1:0", "--data-dir", d.DataDir, "--replica-id", "test"}, arguments...)
	if slices.Contains(arguments, "--etcd-endpoints") && !slices.Contains(arguments, "--state-key-file") {
		d.arguments = append(d.arguments, "--state-key-file", StateKeyFile(t))
	}
	for i, argument := range d.arguments[:len(d.arguments)-1] {
		if argument == "--data-dir" {
			d.DataDir = d.arguments[i+1]
		}
	}
	t.Cleanup(func() {
		d.Kill()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", d.LogTail(200))
		}
	})
	return d
}

// Run starts a daemon for a repository and waits until it is ready.
func Run(t testing.TB, repo string, arguments ...string) *Daemon {
	t.Helper()
	d := New(t, repo, arguments...)
	d.Start()
	d.WaitReady()
	return d
}

// Start starts the process and returns at once. The arguments are further
// flags for this process only.
func (d *Daemon) Start(arguments ...string) {
	d.t.Helper()
	binary := Binary(d.t)
	log, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	info, err := log.Stat()
	if err != nil {
		d.t.Fatal(err)
	}
	line := slices.Concat([]string{binary}, d.arguments, arguments)
	if d.MaxFiles > 0 {
		line = slices.Concat([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, d.MaxFiles), "sh"}, line)
	}
	command := exec.Command(line[0], line[1:]...)
	command.Env = environment()
	// A file, because a child process of the daemon could keep a pipe open.
	command.Stdout, command.Stderr = log, log
	// The daemon ends even if the test's process is killed.
	child.EndWithParent(command, false)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run != nil {
		d.t.Fatal("the daemon already runs")
	}
	started := time.Now()
	if err := command.Start(); err != nil {
		d.t.Fatalf("starting hfid: %v", err)
	}
	run := &process{process: command.Process, started: started, logFrom: info.Size(), exited: make(chan struct{})}
	d.run = run
	go func() {
		run.err = command.Wait()
		close(run.exited)
	}()
}

// environment returns the test's environment without settings of the daemon.
func environment() []string {
	var kept []string
	for _, setting := range os.Environ() {
		if !strings.HasPrefix(setting, "HFID_") {
			kept = append(kept, setting)
		}
	}
	return kept
}

func (d *Daemon) current() *process {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.run
}

// Kill kills the process with SIGKILL and waits for it to end. It does nothing
// if the daemon does not run.
func (d *Daemon) Kill() {
	if run := d.current(); run != nil {
		_ = run.process.Kill()
		<-run.exited
		d.forget()
	}
}

// Stop stops the process with SIGTERM and waits for it to end. An error exit
// fails the test.
func (d *Daemon) Stop() {
	d.t.Helper()
	run := d.current()
	if run == nil {
		d.t.Fatal("the daemon does not run")
	}
	_ = run.process.Signal(syscall.SIGTERM)
	select {
	case <-run.exited:
	case <-time.After(WaitLimit):
		d.t.Fatalf("hfid did not stop within %s of SIGTERM", WaitLimit)
	}
	d.forget()
	if run.err != nil {
		d.t.Errorf("hfid exited with an error after SIGTERM: %v", run.err)
	}
}

// Restart kills the process, starts another, and waits until it is ready.
func (d *Daemon) Restart() {
	d.t.Helper()
	d.Kill()
	d.Start()
	d.WaitReady()
}

// WaitExit waits until the process exits by itself, and returns its error: nil
// for exit code 0.
func (d *Daemon) WaitExit() error {
	d.t.Helper()
	run := d.current()
	if run == nil {
		d.t.Fatal("the daemon does not run")
	}
	select {
	case <-run.exited:
	case <-time.After(WaitLimit):
		d.t.Fatalf("hfid did not end within %s", WaitLimit)
	}
	d.forget()
	return run.err
}

// PID returns the process's ID, or 0 if none runs.
func (d *Daemon) PID() int {
	if run := d.current(); run != nil {
		return run.process.Pid
	}
	return 0
}

func (d *Daemon) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.run = nil
}

// listening matches the log line with the daemon's address.
var listening = regexp.MustCompile(`msg=listening .*?address=(http://[^\s"]+)`)

// Address returns the base URL that the running process listens on, or "". Each
// process has another unless --listen names a port.
func (d *Daemon) Address() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run == nil {
		return ""
	}
	if d.run.url == "" {
		text, err := os.ReadFile(d.LogFile)
		if err != nil || int64(len(text)) < d.run.logFrom {
			return ""
		}
		if match := listening.FindSubmatch(text[d.run.logFrom:]); match != nil {
			d.run.url = string(match[1])
		}
	}
	return d.run.url
}

// URL waits until the process listens, and returns its base URL.
func (d *Daemon) URL() string {
	d.t.Helper()
	d.await("listening", func() bool { return d.Address() != "" })
	return d.Address()
}

// LogTail returns the last lines of the daemon's log.
func (d *Daemon) LogTail(lines int) string {
	text, err := os.ReadFile(d.LogFile)
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	all := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

// await polls until a condition holds. The test fails if the process exits or after WaitLimit.
func (d *Daemon) await(what string, condition func() bool) {
	d.t.Helper()
	run := d.current()
	if run == nil {
		d.t.Fatalf("the daemon does not run, so it cannot be %s", what)
	}
	testtool.Eventually(d.t, "hfid is "+what, func() bool {
		select {
		case <-run.exited:
			d.t.Fatalf("hfid exited (%v) before it was %s", run.err, what)
		default:
		}
		return condition()
	})
}
