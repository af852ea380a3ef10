//go:build linux

package istio

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

func (w *world) manifest(path string) string { return filepath.Join(testtool.Root(), path) }

// appPod is a pod of a workload.
type appPod struct{ name, ip string }

func (p appPod) url() string { return "http://" + p.ip + ":8080/" }

// pods returns the ready pods of a workload that are not being deleted.
func (w *world) pods(t testing.TB, namespace, label string) []appPod {
	t.Helper()
	var list corev1.PodList
	if err := json.Unmarshal([]byte(w.kubectl(t, "-n", namespace, "get", "pods", "-l", label, "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	var found []appPod
	for _, pod := range list.Items {
		ready := false
		for _, condition := range pod.Status.Conditions {
			ready = ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
		}
		if ready && pod.DeletionTimestamp == nil {
			found = append(found, appPod{pod.Name, pod.Status.PodIP})
		}
	}
	return found
}

// frontends waits for the three pods of frontend, one of which may not have started yet.
func (w *world) frontends(t testing.TB) []appPod {
	t.Helper()
	var pods []appPod
	eventually(t, "three pods of frontend", time.Minute, func() error {
		if pods = w.pods(t, "demo", "app=frontend"); len(pods) != 3 {
			return fmt.Errorf("frontend has %d ready pods: %v", len(pods), pods)
		}
		return nil
	})
	return pods
}

func (w *world) catalog(t testing.TB) appPod {
	t.Helper()
	pods := w.pods(t, "demo", "app=productcatalog")
	if len(pods) != 1 {
		t.Fatalf("productcatalog has %d ready pods: %v", len(pods), pods)
	}
	return pods[0]
}

// send sends requests to a pod, through its sidecar.
func (w *world) send(t testing.TB, pod appPod, count int) *envoytest.Report {
	t.Helper()
	report, err := envoytest.Load{Request: envoytest.Request{URL: pod.url()}, Requests: count, Connections: 4}.Run(w.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if report.Errors > 0 {
		t.Fatalf("requests to %s: %v", pod.name, report)
	}
	return report
}

// all fails the test unless every request to a pod gets that status.
func (w *world) all(t testing.TB, pod appPod, status int) {
	t.Helper()
	const count = 50
	if report := w.send(t, pod, count); report.Statuses[status] != count {
		t.Errorf("%d requests to %s: %v, and not all %d", count, pod.name, report.Statuses, status)
	}
}

// quick is a client with a short timeout.
var quick = &http.Client{Timeout: 5 * time.Second}

// answersWith returns nil if a request to the pod gets that status.
func (p appPod) answersWith(status int) error {
	response, err := quick.Get(p.url())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	if response.StatusCode != status {
		return fmt.Errorf("%s responds with %d, not %d", p.name, response.StatusCode, status)
	}
	return nil
}

// metric returns the sum of a metric that Prometheus scrapes from a sidecar. It is
// read through the API server's proxy.
func (w *world) metric(t testing.TB, pod appPod, name string) int {
	t.Helper()
	time.Sleep(time.Second) // the filter writes faults within a second; there is no condition, because they may be written already
	text := w.kubectl(t, "get", "--raw", "/api/v1/namespaces/demo/pods/"+pod.name+":15090/proxy/stats/prometheus")
	sum := 0
	for _, found := range regexp.MustCompile(`(?m)^`+name+`(?:\{[^}]*\})? (\d+)$`).FindAllStringSubmatch(text, -1) {
		value, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		sum += value
	}
	return sum
}

// logs returns a container's log.
func (w *world) logs(t testing.TB, namespace, pod, container string) string {
	t.Helper()
	return w.kubectl(t, "-n", namespace, "logs", pod, "-c", container)
}
