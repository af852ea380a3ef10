package envoy

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// shared is the world that most stories are told in; nil until one is.
var shared *sharedWorld

// sharedWorld outlives the test that it was made for.
type sharedWorld struct {
	*world
	owner *lasting
	// future is a daemon of a later version, and late the address of one that is not there yet.
	future *future
	late   string
}

// mesh is the shared world, for the length of a test. Its Envoys are those of
// startMesh: one takes seven seconds of processor time to start, for which
// V8 compiles the filter. Tests that use it run one after another.
func mesh(t *testing.T) *sharedWorld {
	t.Helper()
	testtool.Path(t, "envoy") // or else every test says why it is left out
	if shared == nil {
		owner := &lasting{TB: t}
		shared = &sharedWorld{owner: owner}
		shared.world = newWorld(owner)
		startMesh(owner, shared)
	}
	if shared.world == nil || shared.envoys["half"] == nil {
		t.Fatal("the world of an earlier test did not come to be")
	}
	shared.owner.TB = t
	t.Cleanup(func() {
		if t.Failed() {
			shared.owner.failed = true
			for name, one := range shared.envoys {
				t.Logf("the log of Envoy %s ends with\n%s", name, one.LogTail(6))
			}
		}
	})
	return shared
}

// lasting stands for the test at hand towards things that outlive it: their
// cleanups wait for the end of all tests.
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

// endShared ends the shared world after all tests, and gives the exit code:
// code, or 1 if something of the world had ended before.
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
