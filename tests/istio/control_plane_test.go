//go:build linux

package istio

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// The control plane runs as two replicas, reports its health, serves what the
// command line created, and loses nothing when a replica is killed.
func controlPlaneStory(t *testing.T, w *world) {
	if count := len(w.pods(t, "boifi", "app.kubernetes.io/name=hfi-control-plane")); count != 2 {
		t.Fatalf("%d replicas are ready", count)
	}
	w.ask(t, "/health", nil)
	var ready struct {
		Ready bool           `json:"ready"`
		Etcd  api.EtcdStatus `json:"etcd"`
	}
	w.ask(t, "/ready", &ready)
	if !ready.Ready || ready.Etcd.Mode != "external" || !ready.Etcd.Healthy {
		t.Errorf("GET /ready returns %+v", ready)
	}
	w.pushAndWait(t)
	w.loadPlugin(t)
	w.hfi(t, abort("through-the-command-line", "nobody", "demo", 503, 100), "apply", "-f", "-")
	var policy struct {
		Metadata struct{ Name string } `json:"metadata"`
	}
	w.ask(t, "/v1/policies/through-the-command-line", &policy)
	if policy.Metadata.Name != "through-the-command-line" {
		t.Errorf("the policy is served as %+v", policy)
	}
	t.Run("kill a replica", func(t *testing.T) { killReplica(t, w, w.killLeader) })
	t.Run("delete a replica", func(t *testing.T) { killReplica(t, w, w.deleteLeader) })
}

// killReplica ends the leader while there is load on the applications and requests
// to the control plane. Half of frontend's requests must be aborted all the time:
// the filters never lose their policies.
func killReplica(t *testing.T, w *world, lose func(t *testing.T)) {
	w.pushAndWait(t, abort("half", "frontend", "demo", 418, 50))
	pods := append(w.frontends(t), w.catalog(t))
	reports := make([]*envoytest.Report, len(pods))
	var senders sync.WaitGroup
	for i, pod := range pods {
		senders.Go(func() {
			load := envoytest.Load{Request: envoytest.Request{URL: pod.url()}, Duration: 15 * time.Second, Rate: 40, Connections: 2}
			var err error
			if reports[i], err = load.Run(w.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	asked, again := 0, 0
	stop := make(chan struct{})
	senders.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			asked++
			err := testtool.Poll(testtool.WaitLimit, func() error {
				err := w.tryAsk("/v1/policies/half", nil)
				if err != nil {
					again++
				}
				return err
			})
			if err != nil {
				t.Errorf("the control plane did not respond: %v", err)
			}
		}
	})
	time.Sleep(2 * time.Second) // the load is running
	lose(t)
	took := eventually(t, "two ready replicas again", 60*time.Second, func() error {
		if count := len(w.pods(t, "boifi", "app.kubernetes.io/name=hfi-control-plane")); count != 2 {
			return fmt.Errorf("%d are ready", count)
		}
		return nil
	})
	time.Sleep(2 * time.Second) // some of the load runs with both replicas
	close(stop)
	senders.Wait()
	for i, report := range reports {
		if report == nil {
			continue
		}
		frontend := strings.HasPrefix(pods[i].name, "frontend")
		if report.Errors > 0 || report.Statuses[200]+report.Statuses[418] != report.Answers() || frontend == (report.Statuses[418] == 0) {
			t.Errorf("%s, while a replica ended: %v", pods[i].name, report)
		}
		t.Logf("%s, while a replica ended: %v, no failure", pods[i].name, report.Statuses)
	}
	t.Logf("two ready replicas %.1f s after one ended; %d requests to the control plane, of which %d tries failed and then succeeded", took.Seconds(), asked, again)
	w.pushAndWait(t, abort("half", "frontend", "demo", 419, 100))
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 419)
	}
}

// leader returns the name of the leader's pod.
func (w *world) leader(t *testing.T) string {
	t.Helper()
	var status api.Status
	eventually(t, "a leader", 30*time.Second, func() error {
		if err := w.tryAsk("/v1/status", &status); err != nil {
			return err
		}
		if status.Replica.Leader == "" {
			return fmt.Errorf("there is none")
		}
		return nil
	})
	return status.Replica.Leader
}

// killLeader kills the process, which the kubelet starts again.
func (w *world) killLeader(t *testing.T) {
	t.Helper()
	if err := w.lab.Kill("boifi", w.leader(t), "hfid"); err != nil {
		t.Fatal(err)
	}
}

// deleteLeader deletes the Pod, which the Deployment replaces.
func (w *world) deleteLeader(t *testing.T) {
	t.Helper()
	w.kubectl(t, "-n", "boifi", "delete", "pod", w.leader(t), "--wait=false")
}
