package envoytest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// Patience bounds every wait: far more than anything takes on two busy cores.
const Patience = testtool.Patience

// startPatience bounds an Envoy's start, which with the filter takes seven
// seconds of processor time when nothing else runs.
const startPatience = 3 * time.Minute

// Envoy is a running Envoy. Its methods may be used by several goroutines at once.
type Envoy struct {
	// Folder holds the bootstrap, the log and the access logs.
	Folder string

	process *os.Process
	// exited is closed once err says how the process ended.
	exited chan struct{}
	err    error
	// stopped is Stop's answer.
	stop    sync.Once
	stopped error
	// admin is the base URL of the admin interface.
	admin string
	// listeners has each listener's base URL by its name. It is set before
	// Start returns, and by SetDynamic.
	listeners map[string]string
	// config is what it was started with, but for the dynamic listeners: those are the present ones.
	config Config
	// first is the name of the configuration's first listener.
	first string
}

// Run starts an Envoy for a test and waits until it takes requests. At the
// test's end it is stopped; that it ended before, or ends badly, fails the
// test, and a failed test shows the log.
func Run(t testing.TB, config Config) *Envoy {
	t.Helper()
	if config.Binary == "" {
		config.Binary = testtool.Path(t, "envoy")
	}
	e, err := Start(config, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", e.LogTail(100))
		}
	})
	return e
}

// Start starts an Envoy that keeps its files in a folder, and waits until it
// takes requests. The caller stops it.
func Start(config Config, folder string) (*Envoy, error) {
	bootstrap, err := config.Bootstrap(folder)
	if err != nil {
		return nil, fmt.Errorf("making Envoy's bootstrap: %w", err)
	}
	file := filepath.Join(folder, "bootstrap.json")
	if err := os.WriteFile(file, bootstrap, 0o600); err != nil {
		return nil, err
	}
	e := &Envoy{Folder: folder, exited: make(chan struct{}), first: config.Listeners[0].name(), config: config}
	if config.Dynamic != nil {
		if err := config.writeDynamic(folder); err != nil {
			return nil, fmt.Errorf("writing Envoy's listeners: %w", err)
		}
	}
	command := exec.Command(cmp.Or(config.Binary, filepath.Join(testtool.Root(), ".tools", "bin", "envoy")), append([]string{
		"--config-path", file,
		"--admin-address-path", e.adminFile(),
		"--concurrency", strconv.Itoa(cmp.Or(config.Concurrency, 1)),
		"--log-level", cmp.Or(config.LogLevel, "info"),
		// Access logs are read while Envoy runs; the default is ten seconds.
		"--file-flush-interval-msec", "50",
		// It uses shared memory by a number, which Envoys side by side would fight over.
		"--disable-hot-restart",
	}, config.Arguments...)...)
	log, err := os.Create(e.logFile())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	// A group of its own keeps a terminal's Ctrl-C from it, as the test's end
	// stops it; and should the test's process be killed, nothing is left running.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("starting Envoy: %w", err)
	}
	e.process = command.Process
	go func() {
		e.err = command.Wait()
		close(e.exited)
	}()
	if err := e.awaitReady(len(config.Listeners) + len(config.Dynamic)); err != nil {
		e.kill()
		return nil, fmt.Errorf("%w; its log ends with\n%s", err, e.LogTail(40))
	}
	return e, nil
}

// awaitReady waits until all listeners take requests, and notes their addresses.
func (e *Envoy) awaitReady(listeners int) error {
	return e.await("ready", func() bool {
		if e.admin == "" {
			address, err := os.ReadFile(e.adminFile())
			if err != nil || len(address) == 0 {
				return false
			}
			e.admin = "http://" + string(bytes.TrimSpace(address))
		}
		if _, err := e.Admin("GET", "/ready"); err != nil {
			return false
		}
		found, err := e.askListeners()
		e.listeners = found
		return err == nil && len(found) == listeners
	})
}

// await polls until a condition holds; an error says that the process ended, or time did.
func (e *Envoy) await(what string, condition func() bool) error {
	var ended error
	err := testtool.Poll(startPatience, func() error {
		select {
		case <-e.exited:
			ended = fmt.Errorf("Envoy ended (%v) before it was %s", e.err, what)
			return nil
		default:
		}
		if !condition() {
			return fmt.Errorf("Envoy was not %s", what)
		}
		return nil
	})
	return errors.Join(ended, err)
}

// Stop ends the process by SIGTERM and waits for its end. That it had ended
// before, or does not end well, is an error. Further calls give the same answer.
func (e *Envoy) Stop() error {
	e.stop.Do(func() { e.stopped = e.end() })
	return e.stopped
}

func (e *Envoy) end() error {
	select {
	case <-e.exited:
		return fmt.Errorf("Envoy ended by itself: %v; its log ends with\n%s", e.err, e.LogTail(40))
	default:
	}
	_ = e.process.Signal(syscall.SIGTERM)
	select {
	case <-e.exited:
	case <-time.After(Patience):
		e.kill()
		return fmt.Errorf("Envoy did not stop within %s of SIGTERM", Patience)
	}
	if e.err != nil {
		return fmt.Errorf("Envoy was asked to stop, and ended with %v; its log ends with\n%s", e.err, e.LogTail(40))
	}
	return nil
}

// WaitExit waits, for a limited time, until the process has ended by itself.
func (e *Envoy) WaitExit(limit time.Duration) error {
	select {
	case <-e.exited:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("Envoy did not end within %s", limit)
	}
}

// kill ends the process's group and waits for the process's end.
func (e *Envoy) kill() {
	_ = syscall.Kill(-e.process.Pid, syscall.SIGKILL)
	<-e.exited
}

// PID is the process's number.
func (e *Envoy) PID() int { return e.process.Pid }

// URL is the base URL of the first listener, such as "http://127.0.0.1:12345".
func (e *Envoy) URL() string { return e.ListenerURL(e.first) }

// ListenerURL is a listener's base URL. A name that no listener has panics:
// it is the test's mistake.
func (e *Envoy) ListenerURL(name string) string {
	url, ok := e.listeners[name]
	if !ok {
		panic(fmt.Sprintf("this Envoy has no listener %q", name))
	}
	return url
}

// AdminURL returns the base URL of the admin interface.
func (e *Envoy) AdminURL() string { return e.admin }

func (e *Envoy) adminFile() string { return filepath.Join(e.Folder, "admin-address") }

func (e *Envoy) logFile() string { return filepath.Join(e.Folder, "envoy.log") }

// Log is all that Envoy has logged so far, with what its filters logged.
func (e *Envoy) Log() string {
	text, err := os.ReadFile(e.logFile())
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return string(text)
}

// LogTail is the last lines of the log.
func (e *Envoy) LogTail(lines int) string {
	all := strings.Split(strings.TrimSuffix(e.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// WaitLog waits until the log has a text, for a limited time.
func (e *Envoy) WaitLog(text string, limit time.Duration) error {
	return e.waitText(e.Log, text, limit)
}

// AccessLog is what a listener's access log has so far. Envoy writes it
// within a tenth of a second of a request's end.
func (e *Envoy) AccessLog(listener string) string {
	text, err := os.ReadFile(accessLogFile(e.Folder, listener))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("(%v)", err)
	}
	return string(text)
}

// WaitAccessLog waits until a listener's access log has a text, for a limited time.
func (e *Envoy) WaitAccessLog(listener, text string, limit time.Duration) error {
	return e.waitText(func() string { return e.AccessLog(listener) }, text, limit)
}

func (e *Envoy) waitText(log func() string, text string, limit time.Duration) error {
	return testtool.Poll(limit, func() error {
		if !strings.Contains(log(), text) {
			return fmt.Errorf("the log does not have %q", text)
		}
		return nil
	})
}
