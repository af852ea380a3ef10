package envoytest

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Cost is the cost of a load for an Envoy.
type Cost struct {
	// PerRequest is the CPU time of the whole process for one response.
	PerRequest time.Duration
	// Report is the report of the load.
	Report *Report
}

// Cost sends a load to this Envoy and measures the CPU time. A request without a response
// is an error, because its cost is not comparable.
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

// Costs measures loads in turn over several rounds, so that other work on the machine
// affects all of them alike. It returns the median cost per request for each load.
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

// AddedCosts measures as Costs does. It returns the cost per request of the first load, and
// the additional cost of each load. It compares the lower quartiles of the rounds: other
// work can only increase the cost of a round, and on a busy machine the quartiles vary less
// than the medians.
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

// Quantile returns the quantile q (0 to 1) of the values, or 0 if there are none. It does not
// change the order of the values.
func Quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
