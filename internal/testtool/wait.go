package testtool

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// Patience bounds every wait: far more than anything takes on two busy cores.
const Patience = time.Minute

// Between two looks at a condition passes a pause that grows from shortest to longest.
const (
	shortest = 2 * time.Millisecond
	longest  = 20 * time.Millisecond
)

// Poll calls check until it gives no error. After limit it gives up, with the
// last error. Check is called once more after the limit, so that a machine
// which was busy elsewhere for all of it has looked all the same.
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

// Within waits until check gives no error, and gives the time that it took. It
// fails the test if that is more than limit.
func Within(t testing.TB, limit time.Duration, what string, check func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := Poll(limit, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began)
}

var errNotYet = errors.New("it does not hold")

// Eventually waits until a condition holds, for Patience at most.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	Within(t, Patience, what, func() error {
		if !condition() {
			return errNotYet
		}
		return nil
	})
}

// Throughout fails the test if check gives an error at any time in a duration.
// It is for what must not happen; what is to come is waited for by Within.
func Throughout(t testing.TB, duration time.Duration, what string, check func() error) {
	t.Helper()
	for end, last := time.Now().Add(duration), false; !last; time.Sleep(longest) {
		last = time.Now().After(end)
		if err := check(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}
