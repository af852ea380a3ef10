//go:build linux

package istio

import (
	"fmt"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// After git revert and a push, the mesh enforces the earlier policies.
func rollbackStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	good := w.push(t, abort("outage", "frontend", "demo", 418, 100))
	w.wait(t, good)
	bad := w.push(t, abort("outage", "*", "*", 503, 100))
	w.wait(t, bad)
	w.all(t, w.catalog(t), 503)
	reverted := w.repo.Revert(bad)
	w.repo.Push()
	w.webhook(t)
	w.wait(t, reverted)
	w.all(t, w.catalog(t), 200)
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 418)
	}
	var status api.Status
	w.ask(t, "/v1/status", &status)
	if len(status.History) == 0 || status.History[0].Commit != reverted || status.History[0].Restores != good {
		t.Errorf("the history does not say that %s restored %s: %+v", reverted, good, status.History)
	}
}

// Writes of other clients to etcd are reported, and never reach a filter.
func driftStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("mild", "frontend", "demo", 418, 100))
	w.loadPlugin(t)
	drift := func(want api.DriftState) func() error {
		return func() error {
			var seen api.Drift
			if err := w.tryAsk("/v1/drift", &seen); err != nil {
				return err
			}
			if seen.Status != want {
				return fmt.Errorf("drift is %+v", seen)
			}
			return nil
		}
	}
	eventually(t, "no drift", 10*time.Second, drift("None"))
	before, err := w.lab.Etcdctl(w.ctx, "get", "--print-value-only", "/hfi/policies/mild")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.lab.Etcdctl(w.ctx, "put", "/hfi/policies/mild", `{"metadata":{"name":"mild"},"spec":{"rules":[{"fault":{"abort":{"status":503}}}]}}`); err != nil {
		t.Fatal(err)
	}
	took := eventually(t, "drift", 5*time.Second, drift("Detected"))
	t.Logf("drift was reported after %v", took.Round(time.Millisecond))
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 418)
	}
	w.all(t, w.catalog(t), 200)
	if _, err := w.lab.Etcdctl(w.ctx, "put", "/hfi/policies/mild", before[:len(before)-1]); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no drift again", 5*time.Second, drift("None"))
}
