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

	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/testtool"
)

// WaitLimit is the limit of every wait: far more than anything takes on two busy cores.
const WaitLimit = testtool.WaitLimit

// startLimit bounds an Envoy's start, which with the filter takes seven
// seconds of processor time when nothing else runs.
const startLimit = 5 * time.Minute

// Envoy is a running Envoy. Its methods are safe for concurrent use.
type Envoy struct {
	// Folder has the bootstrap, the log and the access logs.
	Folder string

	process *os.Process
	// exited is closed when the process has ended and err is set.
	exited chan struct{}
	err    error
	// stopped is the result of Stop.
	stop    sync.Once
	stopped error
	// admin is the base URL of the admin interface.
	admin string
	// listeners has the base URL of each listener by name. Start and SetDynamic set it.
	listeners map[string]string
	// config is the configuration at the start, with the current dynamic listeners.
	config Config
	// first is the name of the configuration's first listener.
	first string
}

// Run starts an Envoy for a test and waits until it accepts requests. At the end of the test it
// is stopped. The test fails if Envoy has ended before or exits with an error, and a failed test
// prints the log.
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

// Start starts an Envoy with its files in a folder, and waits until it accepts requests. The
// caller must stop it.
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
		// Hot restart uses shared memory with a fixed ID, on which several Envoys conflict.
		"--disable-hot-restart",
	}, config.Arguments...)...)
	log, err := os.Create(e.logFile())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	// Its own process group protects it from Ctrl-C in the terminal; the test stops it. If the
	// test's process is killed, Envoy is killed too.
	child.EndWithParent(command, true)
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

// awaitReady waits until all listeners accept requests, and stores their addresses.
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

// await polls until a condition holds. It returns an error if the process ends or the limit is
// reached.
func (e *Envoy) await(what string, condition func() bool) error {
	var ended error
	err := testtool.Poll(startLimit, func() error {
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

// Stop sends SIGTERM and waits until the process has ended. It returns an error if the process had
// ended before or exits with an error. Further calls return the same result.
func (e *Envoy) Stop() error {
	e.stop.Do(func() { e.stopped = e.end() })
	return e.stopped
}

func (e *Envoy) end() error {
	select {
	case <-e.exited:
		return fmt.Errorf("Envoy ended unexpectedly: %v; its log ends with\n%s", e.err, e.LogTail(40))
	default:
	}
	_ = e.process.Signal(syscall.SIGTERM)
	select {
	case <-e.exited:
	case <-time.After(WaitLimit):
		e.kill()
		return fmt.Errorf("Envoy did not stop within %s of SIGTERM", WaitLimit)
	}
	if e.err != nil {
		return fmt.Errorf("Envoy ended with %v after SIGTERM; its log ends with\n%s", e.err, e.LogTail(40))
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

// kill kills the process group and waits until the process has ended.
func (e *Envoy) kill() {
	_ = child.KillGroup(e.process.Pid)
	<-e.exited
}

// PID returns the process ID.
func (e *Envoy) PID() int { return e.process.Pid }

// URL returns the base URL of the first listener, such as "http://127.0.0.1:12345".
func (e *Envoy) URL() string { return e.ListenerURL(e.first) }

// ListenerURL returns the base URL of a listener. It panics for an unknown name.
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

// Log returns the log of Envoy and its filters so far.
func (e *Envoy) Log() string {
	text, err := os.ReadFile(e.logFile())
	if err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return string(text)
}

// LogTail returns the last lines of the log.
func (e *Envoy) LogTail(lines int) string {
	all := strings.Split(strings.TrimSuffix(e.Log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// WaitLog waits until the log contains a text, for a limited time.
func (e *Envoy) WaitLog(text string, limit time.Duration) error {
	return e.waitText(e.Log, text, limit)
}

// AccessLog returns the access log of a listener so far. Envoy writes a line within a tenth of a
// second after the end of a request.
func (e *Envoy) AccessLog(listener string) string {
	text, err := os.ReadFile(accessLogFile(e.Folder, listener))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Sprintf("(%v)", err)
	}
	return string(text)
}

// WaitAccessLog waits until the access log of a listener contains a text, for a limited time.
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
