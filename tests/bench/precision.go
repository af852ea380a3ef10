package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
)

// configuredDelay is the delay of both filters.
const configuredDelay = 100 * time.Millisecond

// precision measures how late the same delay ends with Envoy's own fault filter and
// with hfi, at the same time in one Envoy.
func (b *filterBench) precision(ctx context.Context) (rows []row, err error) {
	native := envoytest.AlwaysDelay(configuredDelay).Filter()
	chains := []chain{{"native", &native, ""}, b.hfi("delay", "hfi", "delay")}
	e, err := b.envoy(ctx, 1, chains...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.Stop()) }()
	late := map[string][]time.Duration{}
	for range b.delayRounds {
		for _, c := range chains {
			load := envoytest.Load{Request: envoytest.Request{URL: e.ListenerURL(c.name) + requestPath}, Requests: 100, Connections: 10}
			report, err := load.Run(ctx)
			if err != nil {
				return nil, err
			}
			// A delay of Envoy's own filter may end some milliseconds early.
			if report.Errors > 0 || report.Slower(configuredDelay*9/10) < report.Answers() {
				return nil, fmt.Errorf("requests that %s delays: %s", c.name, report)
			}
			for _, latencies := range report.Latencies {
				for _, latency := range latencies {
					late[c.name] = append(late[c.name], latency-configuredDelay)
				}
			}
		}
	}
	at := func(name string, q float64) string {
		return fmt.Sprintf("%.1f ms", envoytest.Quantile(late[name], q).Seconds()*1000)
	}
	for _, q := range []struct {
		name  string
		share float64
	}{{"median", 0.5}, {"99th percentile", 0.99}} {
		rows = append(rows, row{
			figure: fmt.Sprintf("lateness of a delay of %d ms, %s (hfi, Envoy's own fault filter)", configuredDelay.Milliseconds(), q.name),
			value:  fmt.Sprintf("%s, %s", at("delay", q.share), at("native", q.share)), met: true,
		})
	}
	return rows, nil
}
