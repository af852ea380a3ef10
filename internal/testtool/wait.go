package testtool

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// WaitLimit bounds every wait: far more than anything takes on two busy cores.
const WaitLimit = time.Minute

// The pause between two checks of a condition grows from shortest to longest.
const (
	shortest = 2 * time.Millisecond
	longest  = 20 * time.Millisecond
)

// Poll calls check until it returns no error. After limit it returns the last
// error. It calls check once more after the limit, so that a busy machine that
// never ran it within the limit still does.
func Poll(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for pause := shortest; ; pause = min(2*pause, longest) {
		late := time.Now().After(deadline)
		err := check()
		if err == nil {
			return nil
		}
		if late {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
		time.Sleep(pause)
	}
}

// Within waits until check returns no error, and returns the time that it took. It
// fails the test after limit.
func Within(t testing.TB, limit time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := Poll(limit, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began)
}

var errNotYet = errors.New("the condition does not hold")

// Eventually waits until a condition holds, for WaitLimit at most.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	Within(t, WaitLimit, what, func() error {
		if !condition() {
			return errNotYet
		}
		return nil
	})
}

// Throughout fails the test if check returns an error at any time during a period.
// Use it for what must not happen, and Within for what must.
func Throughout(t testing.TB, duration time.Duration, what string, check func() error) {
	t.Helper()
	for end, last := time.Now().Add(duration), false; !last; time.Sleep(longest) {
		last = time.Now().After(end)
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
