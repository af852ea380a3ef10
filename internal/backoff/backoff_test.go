package backoff_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/backoff"
)

func TestWaitsDoubleUpToTheLimit(t *testing.T) {
	waits := backoff.New(time.Second, 5*time.Second)
	waits.RandomizationFactor = 0
	for range 2 {
		for i, want := range []time.Duration{1, 2, 4, 5, 5} {
			if got := waits.NextBackOff(); got != want*time.Second {
				t.Errorf("wait %d is %s, want %ds", i, got, want)
			}
		}
		waits.Reset()
	}
	if got := backoff.New(time.Second, 0).MaxInterval; got != time.Second {
		t.Errorf("a limit below the first wait gives waits up to %s", got)
	}
}

func TestWaitsVary(t *testing.T) {
	const first = time.Second
	seen := map[time.Duration]bool{}
	for range 100 {
		wait := backoff.New(first, first).NextBackOff()
		if wait < 8*first/10 || wait > 12*first/10+1 {
			t.Fatalf("the wait is %s, want 1s with a jitter of 20 %%", wait)
		}
		seen[wait] = true
	}
	if len(seen) < 2 {
		t.Error("all waits are the same")
	}
}

func TestSleepHonoursItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := backoff.Sleep(ctx, time.Hour); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if err := backoff.Sleep(t.Context(), 0); err != nil {
		t.Error(err)
	}
}
