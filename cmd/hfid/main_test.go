package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestTerminationDelay(t *testing.T) {
	for _, delay := range []time.Duration{0, 5 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			signalled, signal := context.WithCancel(context.Background())
			ctx, cancel := delayed(signalled, delay)
			defer cancel()
			time.Sleep(time.Hour)
			if ctx.Err() != nil {
				t.Fatal("it ended before the signal")
			}
			began := time.Now()
			signal()
			<-ctx.Done()
			if took := time.Since(began); took != delay {
				t.Errorf("it ended %s after the signal, want %s", took, delay)
			}
		})
	}
}
