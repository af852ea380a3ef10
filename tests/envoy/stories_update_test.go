package envoy

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// frontends are the sidecars of service frontend in namespace demo.
var frontends = []string{"frontend-1", "frontend-2", "frontend-3"}

// A pushed change reaches every worker of all three Envoys within five
// seconds, and each logs "Received config update from control plane" with the commit.
func TestAPushReachesEveryWorkerOfEveryEnvoy(t *testing.T) {
	w := mesh(t)
	var delays []time.Duration
	for status := 410; status < 415; status++ {
		commit, pushed := w.push(t, fmt.Sprintf(`
metadata: {name: pushed}
spec:
  selector: {service: frontend, namespace: demo}
  rules: [{fault: {abort: {status: %d}}}]`, status))
		for _, name := range frontends {
			threads := map[string]bool{}
			for _, update := range w.envoys[name].updates("hfi") {
				if update.commit == commit {
					threads[update.thread] = true
					delays = append(delays, update.at.Sub(pushed))
				}
			}
			if len(threads) != 3 {
				t.Errorf("Envoy %s: %d threads logged commit %s, and it has two workers and the main thread", name, len(threads), commit)
			}
			// The kernel spreads connections over the workers.
			for range 8 {
				if answer := getOnce(t, w.envoys[name].URL()); answer.Status != status {
					t.Errorf("Envoy %s answers %d after commit %s, not %d", name, answer.Status, commit, status)
				}
			}
		}
	}
	slices.Sort(delays)
	t.Logf("from git push to a VM's log line: median %s, longest %s, of %d", delays[len(delays)/2], delays[len(delays)-1], len(delays))
	if longest := delays[len(delays)-1]; longest > 5*time.Second {
		t.Errorf("the last of the VMs had it after %s", longest)
	}
}

// getOnce sends a request over a new connection.
func getOnce(t *testing.T, url string) *envoytest.Response {
	t.Helper()
	c := envoytest.NewClient(false)
	defer c.Close()
	return get(t, c, url)
}

// examplePolicy is one of the examples in the folder policies.
const examplePolicy = `metadata:
  name: frontend-delay
spec:
  selector:
    service: frontend
    namespace: demo
  rules:
    - fault:
        delay_ms: 500
        percentage: 50
`

// The example policy makes half of frontend's requests take half a second or more.
func TestExamplePolicyDelaysHalfOfFrontendsRequests(t *testing.T) {
	w := mesh(t)
	example, err := os.ReadFile(filepath.Join(testtool.Root(), "policies", "frontend-delay.yaml"))
	if err != nil || string(example) != examplePolicy {
		t.Errorf("the example in the folder policies differs (%v):\n%s", err, example)
	}
	w.push(t, examplePolicy)
	const requests = 800
	// On a busy machine more requests may take long, so the filter's own count is
	// compared with the statistics, and what clients measured with that count.
	before := w.counted(t, "frontend-1").Value("hfi_faults_delays_total")
	report := load(t, envoytest.Load{
		Request: envoytest.Request{URL: w.envoys["frontend-1"].URL() + "/ok"}, Requests: requests, Connections: 200,
	})
	delayed := int(w.counted(t, "frontend-1").Value("hfi_faults_delays_total") - before)
	t.Logf("%d of %d delayed: %s", delayed, requests, report)
	if k := tolerance(requests, 0.5, 1e-7); math.Abs(float64(delayed)-requests/2) > float64(k) {
		t.Errorf("%d of %d requests were delayed; independent draws differ from half by more than %d once in ten million runs", delayed, requests, k)
	}
	if slow := report.Slower(500 * time.Millisecond); slow < delayed || report.Statuses[200] != requests {
		t.Errorf("%d requests were delayed, and %d took half a second: %s", delayed, slow, report)
	}
	if fast := requests - report.Slower(500*time.Millisecond); fast < requests/10 {
		t.Errorf("only %d of %d requests were not slow", fast, requests)
	}
}

// stats scrapes an Envoy's metrics.
func (w *world) stats(t *testing.T, name string) envoytest.Stats {
	t.Helper()
	stats, err := w.envoys[name].Stats()
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// faultsAreCounted is how long after a fault it is in the metrics at the latest.
const faultsAreCounted = time.Second

// counted returns an Envoy's metrics when all faults before the call are in them.
func (w *world) counted(t *testing.T, name string) envoytest.Stats {
	t.Helper()
	time.Sleep(faultsAreCounted) // there is no condition: the faults may be counted already
	return w.stats(t, name)
}

// ask sends a request, and fails the test if there is no response.
func ask(t *testing.T, c *envoytest.Client, request envoytest.Request) *envoytest.Response {
	t.Helper()
	answer, err := c.Do(context.Background(), request)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}
