package envoy

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// oracleMeasured are the cases that are measured over many requests. In those of
// the rates Envoy responds itself, which is faster.
var oracleMeasured = []oracleCase{
	{name: "timing", fault: oracleDelay(50 * time.Millisecond)},
	{name: "side-by-side", fault: oracleDelay(250 * time.Millisecond)},
	{name: "rate-0", fault: oracleAbort(503).share(0), direct: 200},
	{name: "rate-0-1", fault: oracleAbort(503).share(1_000), direct: 200},
	{name: "rate-12-5", fault: oracleAbort(503).share(125_000), direct: 200},
	{name: "rate-33-3333", fault: oracleAbort(503).share(333_333), direct: 200},
	{name: "rate-99-9", fault: oracleAbort(503).share(999_000), direct: 200},
	{name: "rate-100", fault: oracleAbort(503), direct: 200},
	{name: "rate-delay", fault: oracleDelay(time.Millisecond).share(125_000), direct: 200},
	{name: "draws-one-rule", fault: oracleDelay(time.Millisecond).thenAbort(503).share(500_000), direct: 200},
	{name: "draws-two-rules", fault: oracleFault{status: 503, delay: time.Millisecond, ppm: 500_000, twoRules: true}, direct: 200},
}

// loadBoth sends a measured case's load to both sides in turn.
func (w *oracleWorld) loadBoth(t *testing.T, name string, l envoytest.Load) (reports [2]*envoytest.Report) {
	t.Helper()
	for i, side := range oracleSides {
		l.Request.URL = w.envoy.ListenerURL(side) + "/" + name + "/"
		l.Request.Header = http.Header{oracleSideHeader: {side}}
		reports[i] = load(t, l)
	}
	return reports
}

// checkTiming compares the configured delays with the measured ones. Both sides
// take turns, so that a busy machine slows down both.
func (w *oracleWorld) checkTiming(t *testing.T) {
	const times, asked = 41, 50 * time.Millisecond
	var took [2][]time.Duration
	c := client(t, false)
	for range times {
		for i, side := range oracleSides {
			answer, err := c.Do(context.Background(), envoytest.Request{
				URL: w.envoy.ListenerURL(side) + "/timing/", Header: http.Header{oracleSideHeader: {side}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if answer.Status != 200 || answer.Elapsed+oracleEarly[i] < asked {
				t.Errorf("%s: status %d after %s, with a delay of %s", side, answer.Status, answer.Elapsed, asked)
			}
			took[i] = append(took[i], answer.Elapsed)
		}
	}
	var medians [2]time.Duration
	for i := range took {
		slices.Sort(took[i])
		medians[i] = took[i][times/2]
	}
	t.Logf("%s asked for: in the median %s by the native filter and %s by ours", asked, medians[0], medians[1])
	if (medians[0] - medians[1]).Abs() > 100*time.Millisecond {
		t.Errorf("the medians differ too much: %s by the native filter and %s by ours", medians[0], medians[1])
	}
}

// checkConcurrent runs many delays at the same time: that makes none of them
// shorter, and none waits for another.
func (w *oracleWorld) checkConcurrent(t *testing.T) {
	const requests, connections, asked = 400, 100, 250 * time.Millisecond
	for i, report := range w.loadBoth(t, "side-by-side", envoytest.Load{Requests: requests, Connections: connections}) {
		if report.Statuses[200] != requests || report.Slower(asked-oracleEarly[i]) != requests {
			t.Errorf("%s: not all %d requests were delayed by %s: %s", oracleSides[i], requests, asked, report)
		}
		// One after the other they would take 100 s.
		if report.Elapsed > 20*time.Second {
			t.Errorf("%s: the delays waited for each other: %s", oracleSides[i], report)
		}
	}
}

// checkRates compares how often faults happen. Each of the comparisons, about
// thirty with those of checkDraws, fails by chance in one run of fifty million, so
// any of them in fewer than one run of a million.
func (w *oracleWorld) checkRates(t *testing.T) {
	for _, rate := range []struct {
		name     string
		share    float64
		requests int
	}{
		{"rate-0", 0, 2000},
		{"rate-0-1", 0.001, 25_000},
		{"rate-12-5", 0.125, 6000},
		{"rate-33-3333", 0.333333, 6000},
		{"rate-99-9", 0.999, 6000},
		{"rate-100", 1, 2000},
		{"rate-delay", 0.125, 6000},
	} {
		before := w.counters(t)
		reports := w.loadBoth(t, rate.name, envoytest.Load{Requests: rate.requests, Connections: 16})
		counted := w.counters(t).since(before)
		var faults [2]int
		for i, report := range reports {
			faults[i] = report.Statuses[503]
			if rate.name == "rate-delay" {
				faults[i] = int(counted.delays[i])
			} else if int(counted.aborts[i]) != faults[i] {
				t.Errorf("%s %s: %d aborts are counted, and %d came", rate.name, oracleSides[i], int(counted.aborts[i]), faults[i])
			}
			if report.Answers() != rate.requests || faults[i]+report.Statuses[200] != rate.requests && rate.name != "rate-delay" {
				t.Errorf("%s %s: %s", rate.name, oracleSides[i], report)
			}
			oracleWithin(t, rate.name+" "+oracleSides[i], faults[i], rate.requests, rate.share)
		}
		// If both rates are equal, a fault is equally likely to be of either filter, and
		// the more frequent faults are the more evenly they are divided.
		if both := faults[0] + faults[1]; rate.share <= 0.5 {
			oracleWithin(t, rate.name+", the native filter's part", faults[0], both, 0.5)
		}
		t.Logf("%s: of %d requests each, %d by the native filter and %d by ours", rate.name, rate.requests, faults[0], faults[1])
	}
}

// checkDraws checks what a random draw decides. The native filter draws separately
// for the delay and the abort, as do two rules of ours; a single rule has one draw
// for both.
func (w *oracleWorld) checkDraws(t *testing.T) {
	const requests = 2000
	for _, c := range []struct {
		name string
		// Shares of delays and aborts together, and of neither, by side.
		both [2]float64
	}{
		{"draws-two-rules", [2]float64{0.25, 0.25}},
		{"draws-one-rule", [2]float64{0.25, 0.5}},
	} {
		reports := w.loadBoth(t, c.name, envoytest.Load{Requests: requests, Connections: 16})
		for i, side := range oracleSides {
			prefix := "/" + c.name + "/\t"
			if answers := reports[i].Answers(); answers != requests {
				t.Fatalf("%s %s: %d answers", c.name, side, answers)
			}
			var lines []string
			testtool.Within(t, testtool.WaitLimit, c.name+" "+side, func() error {
				lines = nil
				whole, _, _ := cutLast(w.envoy.AccessLog(side))
				for line := range strings.Lines(whole) {
					if strings.HasPrefix(line, prefix) {
						lines = append(lines, line)
					}
				}
				if len(lines) < requests {
					return fmt.Errorf("the access log has %d of %d requests", len(lines), requests)
				}
				return nil
			})
			both, neither := 0, 0
			for _, line := range lines {
				delayed := strings.Contains(line, "DI") || strings.Contains(line, "delay="+c.name)
				aborted := strings.Contains(line, "FI") || strings.Contains(line, "abort="+c.name)
				switch {
				case delayed && aborted:
					both++
				case !delayed && !aborted:
					neither++
				}
			}
			oracleWithin(t, c.name+" "+side+", both", both, requests, c.both[i])
			oracleWithin(t, c.name+" "+side+", neither", neither, requests, c.both[i])
		}
	}
}

// oracleFalseAlarm is the probability that one comparison fails by chance, on each side.
const oracleFalseAlarm = 1e-8

// oracleWithin fails the test if a count of faults is too unlikely for the configured share.
func oracleWithin(t *testing.T, what string, count, of int, share float64) {
	t.Helper()
	if below, above := oracleTail(of, share, 0, count), oracleTail(of, share, count, of); below < oracleFalseAlarm || above < oracleFalseAlarm {
		t.Errorf("%s: %d of %d, where %g %% are wanted: the chance of that few is %.3g, and of that many %.3g",
			what, count, of, share*100, below, above)
	}
}

// oracleTail returns the probability that of n draws with probability p between least and most succeed.
func oracleTail(n int, p float64, least, most int) float64 {
	if p <= 0 || p >= 1 {
		if certain := int(p) * n; least <= certain && certain <= most {
			return 1
		}
		return 0
	}
	lgamma := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	sum := 0.0
	for k := least; k <= most; k++ {
		sum += math.Exp(lgamma(n) - lgamma(k) - lgamma(n-k) + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	return sum
}
