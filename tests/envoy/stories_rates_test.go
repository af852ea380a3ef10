package envoy

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// tolerance returns the least k for which the number of hits in n independent draws
// of probability p differs from n·p by more than k with a probability below maxProbability.
// It sums the binomial distribution itself: P(i) = n!/(i!(n-i)!) p^i (1-p)^(n-i).
func tolerance(n int, p, maxProbability float64) int {
	logFactorial := func(i int) float64 { value, _ := math.Lgamma(float64(i) + 1); return value }
	// beyond[k] is the probability of a difference of more than k-1 and at most k.
	beyond := make([]float64, n+2)
	for i := 0; i <= n; i++ {
		log := logFactorial(n) - logFactorial(i) - logFactorial(n-i) + float64(i)*math.Log(p) + float64(n-i)*math.Log1p(-p)
		beyond[int(math.Ceil(math.Abs(float64(i)-float64(n)*p)))] += math.Exp(log)
	}
	sum := 0.0
	for k := n + 1; k > 0; k-- {
		if sum += beyond[k]; sum >= maxProbability {
			return k
		}
	}
	return 0
}

// share returns a policy that aborts a percentage of the requests for /NAME.
func share(name, percentage string) string {
	return fmt.Sprintf(`
metadata: {name: %s}
spec:
  selector: {service: frontend}
  rules: [{match: {path: {exact: /%[1]s}}, fault: {percentage: %[2]s, abort: {status: 503}}}]`, name, percentage)
}

// Each of three Envoys faults thirty percent of its requests, and other percentages
// as small as a millionth. Each check fails by chance once in ten million runs, so
// any of them in fewer than one run of a million.
func TestEachEnvoyFaultsTheConfiguredPercentage(t *testing.T) {
	w := mesh(t)
	w.push(t, share("none", "0"), share("tiny", "0.0001"), share("eighth", "12.5"), share("thirty", "30"), share("all", "100"))
	for _, c := range []struct {
		envoy, path string
		requests    int
		chance      float64
	}{
		{"frontend-1", "thirty", 3000, 0.3}, {"frontend-2", "thirty", 3000, 0.3}, {"frontend-3", "thirty", 3000, 0.3},
		{"frontend-1", "none", 1000, 0}, {"frontend-1", "tiny", 3000, 0.000001}, {"frontend-1", "eighth", 3000, 0.125}, {"frontend-1", "all", 1000, 1},
	} {
		report := load(t, envoytest.Load{Request: envoytest.Request{URL: w.envoys[c.envoy].URL() + "/" + c.path}, Requests: c.requests})
		got, off := report.Statuses[503], 0
		if c.chance > 0 && c.chance < 1 {
			off = tolerance(c.requests, c.chance, 1e-7)
		}
		expected := float64(c.requests) * c.chance
		t.Logf("%s, %s: %d of %d aborted, %.1f expected, %d allowed", c.envoy, c.path, got, c.requests, expected, off)
		if math.Abs(float64(got)-expected) > float64(off) || report.Answers() != c.requests || report.Statuses[200] != c.requests-got {
			t.Errorf("%s, %s: not %.1f plus or minus %d aborted: %s", c.envoy, c.path, expected, off, report)
		}
	}
}

// Each pod and each of its workers draws independently: the first 64 draws of one
// occur nowhere in the draws of another. Two sequences of 64 draws with probability
// one half are equal by chance once in 2^64; any of the pairs compared here, once
// in 10^14 runs.
func TestEachWorkerDrawsIndependently(t *testing.T) {
	w := mesh(t)
	w.push(t, share("half", "50"))
	// Other tests may have made different numbers of draws, which would shift equal
	// generators against each other by up to that many.
	const length, window = 4000, 64
	streams := map[string]string{}
	for _, name := range []string{"frontend-1", "frontend-2"} {
		for try := 0; streams[name+", worker 0"] == "" || streams[name+", worker 1"] == ""; try++ {
			if try == 40 {
				t.Fatalf("%s: one of the workers got none of 40 connections", name)
			}
			c := envoytest.NewClient(false)
			stream := name + ", worker " + connect(t, c, w.envoys[name])
			if streams[stream] == "" {
				streams[stream] = draws(t, c, w.envoys[name].URL()+"/half", length)
			}
			c.Close()
		}
	}
	for one, draws := range streams {
		for other, others := range streams {
			if one == other {
				continue
			}
			if at := strings.Index(others, draws[:window]); at >= 0 {
				t.Errorf("the draws of %s are those of %s, %d later", one, other, at)
			}
		}
	}
}

// connect opens a client's connection, and returns the number of the worker that accepted it.
func connect(t *testing.T, c *envoytest.Client, e *sidecar) string {
	t.Helper()
	connections := func(worker string) float64 {
		stats, err := e.Stats()
		if err != nil {
			t.Fatal(err)
		}
		return stats.Value("envoy_listener_worker_downstream_cx_total", "envoy_worker_id", worker)
	}
	first, second := connections("0"), connections("1")
	get(t, c, e.URL()+"/ok")
	first, second = connections("0")-first, connections("1")-second
	switch {
	case first == 1 && second == 0:
		return "0"
	case first == 0 && second == 1:
		return "1"
	}
	t.Fatalf("one connection was counted as %v and %v by the two workers", first, second)
	return ""
}

// draws sends requests one after another, and returns a 1 for each that was aborted and a 0 for each other.
func draws(t *testing.T, c *envoytest.Client, url string, length int) string {
	t.Helper()
	text := make([]byte, length)
	for i := range text {
		text[i] = '0'
		if get(t, c, url).Status == 503 {
			text[i] = '1'
		}
	}
	return string(text)
}

// A pod that restarts gets its policies again, without a push.
func TestARestartedEnvoyGetsItsPoliciesAgain(t *testing.T) {
	w := mesh(t)
	w.push(t, share("again", "100"))
	if answer := getOnce(t, w.envoys["frontend-3"].URL()+"/again"); answer.Status != 503 {
		t.Errorf("before: status %d", answer.Status)
	}
	w.restart(t, w.owner, "frontend-3")
	w.waitInForce(t, "frontend-3")
	for range 8 {
		if answer := getOnce(t, w.envoys["frontend-3"].URL()+"/again"); answer.Status != 503 {
			t.Errorf("after its restart: status %d", answer.Status)
		}
	}
}
