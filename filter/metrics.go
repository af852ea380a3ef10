package main

import (
	"strconv"
	"strings"
)

// Envoy exports a metric hfi.x_total as hfi_x_total in /stats/prometheus. All VMs
// of a sidecar share a metric: counters are summed, and a gauge has the value
// written last.

// maxPolicyTags bounds the number of policies with metrics in one VM: Envoy never
// removes a metric, and the names of policies change.
const maxPolicyTags = 1000

// metrics are the filter's metrics. Each is defined on first use.
type metrics struct {
	// counters and gauges have the host's ID of each metric by its name.
	counters, gauges map[string]uint32
	// pausedStreams is the only gauge that is summed over the VMs. It is defined
	// with the first pause.
	pausedStreams *uint32
	// tags are the policies with metrics of their own.
	tags map[string]struct{}
	// faults are the faults that are not yet in the host's counters.
	faults []faultCount
}

// faultCount counts the faults of one kind of one policy.
type faultCount struct {
	kind     faultKind
	policy   string
	byPolicy bool
	n        uint64
}

// faultKind is a kind of faults that are counted together.
type faultKind uint8

const (
	delays faultKind = iota
	aborts
	dryRunDelays
	dryRunAborts
)

// faultKinds has the metric of each kind, and its name in the log.
var faultKinds = [...]struct{ metric, logged string }{
	delays: {metricDelays, "delays"}, aborts: {metricAborts, "aborts"},
	dryRunDelays: {metricDryRunDelays, "dry-run delays"}, dryRunAborts: {metricDryRunAborts, "dry-run aborts"},
}

// The kinds of metrics in the proxy-wasm interface.
const counterMetric, gaugeMetric = 0, 1

// The names of the metrics.
const (
	metricAborts        = "hfi.faults.aborts_total"
	metricDelays        = "hfi.faults.delays_total"
	metricDryRunAborts  = "hfi.faults.dry_run_aborts_total"
	metricDryRunDelays  = "hfi.faults.dry_run_delays_total"
	metricPolicies      = "hfi.policies_loaded"
	metricUpdates       = "hfi.config.updates_total"
	metricBadPolicies   = "hfi.config.bad_policies_total"
	metricPollErrors    = "hfi.config.poll_errors_total"
	metricStale         = "hfi.config.stale"
	metricHeartbeats    = "hfi.heartbeats_total"
	metricPanics        = "hfi.panics_total"
	metricPausedStreams = "hfi.paused_streams"
)

func newMetrics() metrics {
	return metrics{
		counters: map[string]uint32{},
		gauges:   map[string]uint32{},
		tags:     map[string]struct{}{},
	}
}

// define defines the counters, so that they are exported as zero before the first
// event. Those of faults are not if these are counted by policy.
func (m *metrics) define(byPolicy bool) {
	for _, name := range []string{metricUpdates, metricPollErrors, metricBadPolicies, metricHeartbeats, metricPanics} {
		m.add(name, 0)
	}
	if !byPolicy {
		for _, name := range []string{metricAborts, metricDelays, metricDryRunAborts, metricDryRunDelays} {
			m.add(name, 0)
		}
	}
}

func (m *metrics) add(name string, n uint64) {
	counter, ok := m.counters[name]
	if !ok {
		counter = defineMetric(counterMetric, name)
		m.counters[name] = counter
	}
	if n > 0 {
		incrementMetric(counter, int64(n))
	}
}

// maxFaults is the number of kinds of faults of policies at which they are written at once.
const maxFaults = 32

// fault counts one fault of a policy. If byPolicy is set, the counter has the tag policy.
// A call to the host for each fault would cost as much as the decision on the request, so
// writeFaults makes them all at once. fault reports whether that has to be scheduled. The
// caller calls it at once when there are maxFaults.
func (m *metrics) fault(kind faultKind, policy string, byPolicy bool) (first bool) {
	for i := range m.faults {
		if f := &m.faults[i]; f.kind == kind && f.policy == policy && f.byPolicy == byPolicy {
			f.n++
			return false
		}
	}
	// The name is a part of the text of the whole program, which tags would keep.
	m.faults = append(m.faults, faultCount{kind, strings.Clone(policy), byPolicy, 1})
	return len(m.faults) == 1
}

// writeFaults adds the faults to the host's counters, and returns a description of them
// for the log, or "" if there are none. If it panics, the rest is not counted.
func (m *metrics) writeFaults() (text string) {
	faults := m.faults
	m.faults = m.faults[:0]
	for i, f := range faults {
		if i > 0 {
			text += ", "
		}
		kind := faultKinds[f.kind]
		text += strconv.FormatUint(f.n, 10) + " " + kind.logged + " by " + f.policy
		name := kind.metric
		if f.byPolicy {
			name = m.tagged(name, f.policy)
		}
		m.add(name, f.n)
	}
	return text
}

// tagged returns the name of a metric with the tag policy.
func (m *metrics) tagged(name, policy string) string {
	if _, ok := m.tags[policy]; !ok {
		if len(m.tags) >= maxPolicyTags {
			policy = "_other"
		} else {
			m.tags[policy] = struct{}{}
		}
	}
	return "policy=.=" + policy + ";.;" + name
}

// set sets a gauge.
func (m *metrics) set(name string, value uint64) {
	gauge, ok := m.gauges[name]
	if !ok {
		gauge = defineMetric(gaugeMetric, name)
		m.gauges[name] = gauge
	}
	recordMetric(gauge, value)
}

// paused counts a stream that is paused (1) or not any more (-1).
func (m *metrics) paused(change int64) {
	if m.pausedStreams == nil {
		gauge := defineMetric(gaugeMetric, metricPausedStreams)
		m.pausedStreams = &gauge
	}
	incrementMetric(*m.pausedStreams, change)
}
