package envoy

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// shared is the world that most tests use; nil until the first of them starts.
var shared *sharedWorld

// sharedWorld outlives the test that created it.
type sharedWorld struct {
	*world
	owner *lasting
	// future is a daemon of a later version, and late the address of one that starts later.
	future *future
	late   string
}

// mesh returns the shared world for a test. Its Envoys are those of startMesh. They
// are shared because each takes seven seconds of CPU time to start, in which V8
// compiles the filter. Tests that use it run one after another.
func mesh(t *testing.T) *sharedWorld {
	t.Helper()
	testtool.Path(t, "envoy") // so that each test reports why it is skipped
	if shared == nil {
		owner := &lasting{TB: t}
		shared = &sharedWorld{owner: owner}
		shared.world = newWorld(owner)
		startMesh(owner, shared)
	}
	if shared.world == nil || shared.envoys["half"] == nil {
		t.Fatal("starting the shared world failed in an earlier test")
	}
	shared.owner.TB = t
	t.Cleanup(func() {
		if t.Failed() {
			shared.owner.failed = true
			for name, envoy := range shared.envoys {
				t.Logf("the log of Envoy %s ends with\n%s", name, envoy.LogTail(6))
			}
		}
	})
	return shared
}

// lasting is the current test for helpers whose resources outlive it: their
// cleanups run after all tests.
type lasting struct {
	testing.TB
	cleanups []func()
	failed   bool
	ended    bool
}

func (l *lasting) Cleanup(f func()) { l.cleanups = append(l.cleanups, f) }

func (l *lasting) TempDir() string {
	folder, err := os.MkdirTemp("", "hfi-world-")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

func (l *lasting) Failed() bool { return l.failed || !l.ended && l.TB.Failed() }

func (l *lasting) Logf(format string, values ...any) {
	if l.ended {
		fmt.Fprintf(os.Stderr, format+"\n", values...)
		return
	}
	l.TB.Logf(format, values...)
}

func (l *lasting) Errorf(format string, values ...any) {
	if l.ended {
		l.failed = true
	}
	l.Logf(format, values...)
	if !l.ended {
		l.TB.Fail()
	}
}

func (l *lasting) Error(values ...any) { l.Errorf("%s", fmt.Sprintln(values...)) }

// endShared ends the shared world after all tests, and returns the exit code: code,
// or 1 if a process of the world had ended before.
func endShared(code int) int {
	if shared == nil {
		return code
	}
	owner := shared.owner
	owner.ended = true
	owner.failed = owner.failed || code != 0
	failed := owner.failed
	for _, cleanup := range slices.Backward(owner.cleanups) {
		cleanup()
	}
	if owner.failed && !failed {
		code = cmp.Or(code, 1)
	}
	return code
}
