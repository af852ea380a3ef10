package envoytest

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Cost is what a load cost an Envoy.
type Cost struct {
	// PerRequest is the processor time of the whole process for one answer.
	PerRequest time.Duration
	// Report is the load's.
	Report *Report
}

// Cost sends a load to this Envoy and measures the processor time that it
// took. A request without an answer is an error: its cost would be another one's.
func (e *Envoy) Cost(ctx context.Context, load Load) (*Cost, error) {
	before, err := e.CPU()
	if err != nil {
		return nil, err
	}
	report, err := load.Run(ctx)
	if err != nil {
		return nil, err
	}
	after, err := e.CPU()
	if err != nil {
		return nil, err
	}
	if report.Errors > 0 || report.Answers() == 0 {
		return nil, fmt.Errorf("measuring the cost of a request: %s", report)
	}
	return &Cost{PerRequest: (after - before) / time.Duration(report.Answers()), Report: report}, nil
}

// Costs measures loads in turn, round after round, so that what else the
// machine does meanwhile burdens all of them alike, and gives for each load
// the median of its costs per request.
func (e *Envoy) Costs(ctx context.Context, rounds int, loads ...Load) ([]time.Duration, error) {
	costs, err := e.costs(ctx, rounds, loads)
	if err != nil {
		return nil, err
	}
	medians := make([]time.Duration, len(costs))
	for i := range costs {
		medians[i] = Quantile(costs[i], 0.5)
	}
	return medians, nil
}

// AddedCosts measures as Costs does, and gives what the first load cost per
// request, and how much more each cost than that one. It compares the lower quartiles of the
// rounds: what else a machine does can only make a round dearer, and on a busy
// one these differ less from run to run than the medians do.
func (e *Envoy) AddedCosts(ctx context.Context, rounds int, loads ...Load) (first time.Duration, added []time.Duration, err error) {
	costs, err := e.costs(ctx, rounds, loads)
	if err != nil {
		return 0, nil, err
	}
	first = Quantile(costs[0], 0.25)
	for _, each := range costs {
		added = append(added, Quantile(each, 0.25)-first)
	}
	return first, added, nil
}

// costs has the cost per request by load and round.
func (e *Envoy) costs(ctx context.Context, rounds int, loads []Load) ([][]time.Duration, error) {
	costs := make([][]time.Duration, len(loads))
	for range rounds {
		for i, load := range loads {
			cost, err := e.Cost(ctx, load)
			if err != nil {
				return nil, err
			}
			costs[i] = append(costs[i], cost.PerRequest)
		}
	}
	return costs, nil
}

// Quantile is the value that a share q (0 to 1) of the values is not above;
// 0 if there are none. The values stay in their order.
func Quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
