package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
)

// settled is how long an Envoy is idle before its memory and CPU time are read: V8
// compiles in the background after the start.
const settled = 3 * time.Second

// started is the cost of starting an Envoy.
type started struct {
	// resident is memory in MB. wall is the seconds until it accepts requests,
	// processor the seconds of CPU time until it has settled.
	resident, wall, processor float64
}

// footprint measures what the filter, without policies, adds to an Envoy's memory
// and start.
func (b *filterBench) footprint(ctx context.Context) (rows []row, err error) {
	for _, workers := range []int{1, 4} {
		var added, with, without [3][]float64
		for range b.starts {
			plain, err := b.start(ctx, workers, chain{"none", nil, ""})
			if err != nil {
				return nil, err
			}
			filtered, err := b.start(ctx, workers, b.hfi("idle", "hfi", "none"))
			if err != nil {
				return nil, err
			}
			for i, of := range []func(started) float64{
				func(s started) float64 { return s.resident }, func(s started) float64 { return s.wall }, func(s started) float64 { return s.processor },
			} {
				with[i], without[i] = append(with[i], of(filtered)), append(without[i], of(plain))
				added[i] = append(added[i], of(filtered)-of(plain))
			}
		}
		value := func(i int, format string) string {
			return fmt.Sprintf(format, median(added[i]), median(with[i]), median(without[i]))
		}
		name := fmt.Sprintf("%d workers", workers)
		if workers == 1 {
			name = "1 worker"
		}
		rows = append(rows,
			row{"memory of an Envoy with the filter and " + name + ", over one without", value(0, "%.0f MB (%.0f, %.0f)"), "", true, false},
			row{"its start until it accepts requests, the same", value(1, "%.2f s (%.2f, %.2f)"), "", true, false},
			row{"CPU time of its start, the same", value(2, "%.2f s (%.2f, %.2f)"), "", true, false},
		)
	}
	return rows, nil
}

// start starts an Envoy with one listener, sends it some requests, and stops it.
func (b *filterBench) start(ctx context.Context, workers int, c chain) (s started, err error) {
	b.policies.forget()
	began := time.Now()
	e, err := b.envoy(ctx, workers, c)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, e.Stop()) }()
	s.wall = time.Since(began).Seconds()
	load := envoytest.Load{Request: envoytest.Request{URL: e.URL() + requestPath}, Connections: 16, Requests: 2000}
	if _, err := load.Run(ctx); err != nil {
		return s, err
	}
	time.Sleep(settled)
	memory, err := e.Memory()
	if err != nil {
		return s, err
	}
	processor, err := e.CPU()
	s.resident, s.processor = float64(memory.Resident)/1e6, processor.Seconds()
	return s, err
}
