//go:build linux

package istio

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// Of 1,000 requests at 30 %, 14.5 is one standard deviation, so a correct run
// differs by more than 80 once in thirty million runs.
const (
	drawn     = 1000
	tolerated = 80
)

// Each of three pods draws independently and faults thirty percent. A pod that
// restarts, in any way, gets the policies again.
func manyPodsStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("third", "frontend", "demo", 503, 30))
	w.loadPlugin(t)
	share := func(t *testing.T, pod appPod) {
		t.Helper()
		got := w.send(t, pod, drawn).Statuses[503]
		t.Logf("%s aborted %d of %d", pod.name, got, drawn)
		if math.Abs(float64(got)-0.3*drawn) > tolerated {
			t.Errorf("%s aborted %d of %d requests at 30 %%", pod.name, got, drawn)
		}
	}
	pods := w.frontends(t)
	for _, pod := range pods {
		share(t, pod)
	}
	t.Run("a deleted pod", func(t *testing.T) {
		w.kubectl(t, "-n", "demo", "delete", "pod", pods[0].name)
		w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/frontend", "--timeout=55s")
		for _, pod := range w.frontends(t) {
			if pod.name == pods[1].name || pod.name == pods[2].name {
				continue
			}
			took := eventually(t, "the first abort in the new pod", loadLimit(), func() error { return pod.answersWith(503) })
			t.Logf("the pod that replaced %s injected faults %.1f s after it was ready", pods[0].name, took.Seconds())
			share(t, pod)
		}
	})
	t.Run("a killed Envoy", func(t *testing.T) {
		if err := w.lab.Kill("demo", pods[1].name, "istio-proxy"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the sidecar's end", 10*time.Second, func() error {
			if pods[1].answersWith(200) == nil || pods[1].answersWith(503) == nil {
				return fmt.Errorf("it answers")
			}
			return nil
		})
		eventually(t, "the first abort after the restart", 2*time.Minute, func() error { return pods[1].answersWith(503) })
		share(t, pods[1])
	})
	w.awaitFilters(t)
}
