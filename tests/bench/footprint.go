package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
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
// and start, and compares it with modules that do nothing.
func (b *filterBench) footprint(ctx context.Context) (rows []row, err error) {
	code, err := codeSizes(b.module("hfi"), b.module("go"))
	if err != nil {
		return nil, err
	}
	size := code[0] / code[1]
	rows = append(rows, row{"code of the module, relative to Go's runtime with three exports",
		fmt.Sprintf("%.2f (%.2f MB, %.2f MB)", size, code[0], code[1]), "≤ 1.25", size <= 1.25, true})
	for _, workers := range []int{1, 4} {
		chains := []chain{{"none", nil, ""}, b.hfi("idle", "hfi", "none")}
		if workers == 1 {
			for _, name := range []string{"empty", "go"} {
				filter := envoytest.Wasm{Name: name, File: b.module(name)}.Filter()
				chains = append(chains, chain{name, &filter, ""})
			}
		}
		costs := make([][]started, len(chains))
		for range b.starts {
			// One after the other, so that they meet the same load.
			for i, c := range chains {
				cost, err := b.start(ctx, workers, c)
				if err != nil {
					return nil, err
				}
				costs[i] = append(costs[i], cost)
			}
		}
		rows = append(rows, startRows(workers, costs)...)
	}
	return rows, nil
}

// startRows returns the rows about the starts with a number of workers: of an Envoy without
// a filter, with ours, and then, if they have been measured, with an empty module and with
// Go's runtime.
func startRows(workers int, costs [][]started) (rows []row) {
	resident := func(s started) float64 { return s.resident }
	wall := func(s started) float64 { return s.wall }
	processor := func(s started) float64 { return s.processor }
	// added returns the medians of what the starts of an Envoy cost more than those of the
	// one without a filter, and of what they cost.
	added := func(which int, of func(started) float64) (more, with, without float64) {
		var differences, ones, others []float64
		for i, cost := range costs[which] {
			differences = append(differences, of(cost)-of(costs[0][i]))
			ones, others = append(ones, of(cost)), append(others, of(costs[0][i]))
		}
		return median(differences), median(ones), median(others)
	}
	name := fmt.Sprintf("%d workers", workers)
	if workers == 1 {
		name = "1 worker"
	}
	for _, figure := range []struct {
		name, format string
		of           func(started) float64
	}{
		{"memory of an Envoy with the filter and " + name + ", over one without", "%.0f MB (%.0f, %.0f)", resident},
		{"its start until it accepts requests, the same", "%.2f s (%.2f, %.2f)", wall},
		{"CPU time of its start, the same", "%.2f s (%.2f, %.2f)", processor},
	} {
		more, with, without := added(1, figure.of)
		rows = append(rows, row{figure.name, fmt.Sprintf(figure.format, more, with, without), "", true, false})
	}
	if len(costs) < 4 {
		return rows
	}
	memory, _, _ := added(1, resident)
	rows[0].bound, rows[0].met, rows[0].firm = "≤ 80 MB", memory <= 80, true
	ours, _, _ := added(1, processor)
	runtime, _, _ := added(3, processor)
	ratio := ours / runtime
	rows = append(rows, row{"this CPU time, relative to that with Go's runtime and three exports",
		fmt.Sprintf("%.2f (%.2f s, %.2f s)", ratio, ours, runtime), "≤ 1.25", ratio <= 1.25, false})
	for i, name := range []string{"a module that does nothing", "Go's runtime and three exports"} {
		memory, _, _ := added(2+i, resident)
		start, _, _ := added(2+i, processor)
		rows = append(rows, row{"memory and CPU time of the start with " + name, fmt.Sprintf("%.0f MB, %.2f s", memory, start), "", true, false})
	}
	return rows
}

// codeSizes returns the size of the code of modules, in MB.
func codeSizes(files ...string) (sizes []float64, err error) {
	for _, file := range files {
		module, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		size, err := codeSize(module)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		sizes = append(sizes, float64(size)/1e6)
	}
	return sizes, nil
}

// codeSize returns the size of a module's code section (Wasm specification, 5.5).
func codeSize(module []byte) (int, error) {
	const header, code = 8, 10
	for at := header; at < len(module); {
		id := module[at]
		size, bytes := binary.Uvarint(module[at+1:])
		if bytes <= 0 {
			break
		}
		if id == code {
			return int(size), nil
		}
		at += 1 + bytes + int(size)
	}
	return 0, errors.New("it has no code")
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
