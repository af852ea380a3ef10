// Package backoff makes the waits between tries of one thing: exponential,
// with jitter, so that replicas that fail together do not try again together.
package backoff

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Jitter is the part of a wait, from 0 to 1, by which it is longer or shorter at random.
const Jitter = 0.2

// Waits are the waits between the tries of one thing. NextBackOff gives the
// next wait, Reset begins again with the first; one goroutine at a time may
// use them. A test that computes exact waits sets RandomizationFactor to 0.
// The alias saves importing two packages named backoff.
type Waits = backoff.ExponentialBackOff

// New gives waits that begin with first and double up to limit, or are all
// first if limit is shorter; then each is made longer or shorter by Jitter.
func New(first, limit time.Duration) *Waits {
	return &Waits{
		InitialInterval: first, MaxInterval: max(first, limit), Multiplier: 2, RandomizationFactor: Jitter,
	}
}

// Sleep waits and returns nil, or returns ctx's error as soon as ctx ends.
func Sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
