//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// The crowd is a thousand pods of ten Deployments, which exist in the API server
// but run on no node. Each has a simulated filter with as many VMs as in a sidecar
// with two workers.
const (
	crowdServices  = 10
	crowdReplicas  = 100
	crowdPods      = crowdServices * crowdReplicas
	crowdVMs       = 3
	crowdNamespace = "crowd"
)

// crowdDeployment is bound to a node that does not exist. Its pods have the
// annotation by which the injector marks pods with a sidecar.
const crowdDeployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, namespace: crowd}
spec:
  replicas: COUNT
  selector: {matchLabels: {app: NAME}}
  template:
    metadata:
      labels: {app: NAME}
      annotations: {sidecar.istio.io/status: "{}"}
    spec:
      nodeName: elsewhere
      terminationGracePeriodSeconds: 0
      containers: [{name: app, image: app}]
`

// crowdStory measures the effect of a thousand more pods: on the memory of the
// control plane, on the time from a push to the last filter, and on the filters
// that it wakes. The status counts each of them, and the real pods enforce their
// policies as before.
func crowdStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("near", "frontend", "demo", 418, 100))
	w.loadPlugin(t)
	before := w.memory(t)
	w.kubectl(t, "create", "namespace", crowdNamespace)
	defer func() {
		w.deleteNamespace(t, crowdNamespace)
		eventually(t, "the fleet without the crowd", time.Minute, func() error {
			filters, err := w.filters()
			if err == nil && (filters.Connected != 4 || filters.Current != 4) {
				err = fmt.Errorf("%d filters are connected, %d current, %d silent", filters.Connected, filters.Current, filters.Silent)
			}
			return err
		})
	}()
	began := time.Now()
	for i := range crowdServices {
		w.apply(t, strings.NewReplacer("NAME", crowdService(i), "COUNT", strconv.Itoa(crowdReplicas)).Replace(crowdDeployment))
	}
	w.pushAndWait(t, abort("near", "frontend", "demo", 418, 100), abort("far", crowdService(3), crowdNamespace, 503, 100))
	w.seesPods(t, "far", func(row api.PolicyPods) bool {
		return row.Pods == crowdReplicas && row.WithoutFilterCount == crowdReplicas
	})
	t.Logf("%d pods were known %.1f s after their Deployments were applied, all of them without a filter", crowdPods, time.Since(began).Seconds())

	crowd := w.gather(t)
	defer crowd.leave()
	w.seesPods(t, "far", func(row api.PolicyPods) bool {
		return row.Current == crowdReplicas && row.WithoutFilterCount == 0
	})
	var status api.Status
	eventually(t, "all filters in the status", time.Minute, func() error {
		began = time.Now()
		w.ask(t, "/v1/status", &status)
		if f := status.Filters; f.Connected != crowdPods+4 || f.Current != crowdPods+4 {
			return fmt.Errorf("%d are connected, %d current, %d behind", f.Connected, f.Current, f.Behind)
		}
		return nil
	})
	t.Logf("GET /v1/status with %d filters took %v", crowdPods, time.Since(began).Round(time.Millisecond))

	for _, c := range []struct {
		what, service, namespace string
		concerned                int
	}{
		{"one service's policy", crowdService(3), crowdNamespace, crowdReplicas},
		{"everybody's policy", "*", crowdNamespace, crowdPods},
	} {
		var figures []time.Duration
		for round := range 5 {
			concerned := int64(c.concerned * crowdVMs)
			crowd.woken.Store(0)
			began := time.Now()
			commit := w.push(t, abort("near", "frontend", "demo", 418, 100), abort("far", crowdService(3), crowdNamespace, 503, 100),
				abort("changing", c.service, c.namespace, 500+round, 50))
			eventually(t, c.what+" with all filters that it selects", 30*time.Second, func() error {
				if woken := crowd.woken.Load(); woken < concerned {
					return fmt.Errorf("%d of %d VMs have it", woken, concerned)
				}
				return nil
			})
			figures = append(figures, time.Since(began))
			w.wait(t, commit)
			if woken := crowd.woken.Load(); woken != concerned {
				t.Errorf("%s woke %d VMs, but selects %d", c.what, woken, concerned)
			}
		}
		slices.Sort(figures)
		t.Logf("at %d pods, from git push to the last of the %d VMs that %s selects, git included: median %v, worst of %d %v",
			crowdPods, c.concerned*crowdVMs, c.what, figures[len(figures)/2].Round(time.Millisecond), len(figures), figures[len(figures)-1].Round(time.Millisecond))
	}
	for _, pod := range w.frontends(t) {
		w.all(t, pod, 418)
	}
	after := w.memory(t)
	t.Logf("the control plane's memory, each replica's: %s MB with 4 pods, %s MB with %d more and their %d VMs",
		megabytes(before), megabytes(after), crowdPods, crowdPods*crowdVMs)
	for _, bytes := range after {
		if bytes > 300<<20 {
			t.Errorf("a replica takes %.0f MB at %d pods", bytes/(1<<20), crowdPods)
		}
	}
	if crowd.failed.Load() > 0 {
		t.Errorf("%d requests of filters failed: %v", crowd.failed.Load(), crowd.failure.Load())
	}
}

func crowdService(i int) string { return fmt.Sprintf("crowd-%d", i) }

// seesPods waits until the status shows a policy's pods as wanted.
func (w *world) seesPods(t *testing.T, policy string, wanted func(api.PolicyPods) bool) {
	t.Helper()
	eventually(t, "the pods of policy "+policy, 2*time.Minute, func() error {
		var status api.Status
		if err := w.tryAsk("/v1/status", &status); err != nil {
			return err
		}
		if status.Kubernetes.KubernetesView == nil {
			return fmt.Errorf("the daemon watches no cluster")
		}
		for _, row := range status.Kubernetes.Policies {
			if row.Name == policy && wanted(row) {
				return nil
			}
		}
		return fmt.Errorf("%d pods in all, and %+v", status.Kubernetes.Pods, status.Kubernetes.Policies)
	})
}

var residentMemory = regexp.MustCompile(`(?m)^process_resident_memory_bytes (\S+)$`)

// memory returns each replica's resident memory in bytes, from its metrics.
func (w *world) memory(t *testing.T) []float64 {
	t.Helper()
	var all []float64
	for _, pod := range w.pods(t, "boifi", "app.kubernetes.io/name=hfi-control-plane") {
		text := w.kubectl(t, "get", "--raw", "/api/v1/namespaces/boifi/pods/"+pod.name+":8080/proxy/metrics")
		found := residentMemory.FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("the metrics of %s do not have its memory:\n%s", pod.name, text)
		}
		bytes, err := strconv.ParseFloat(found[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, bytes)
	}
	return all
}

func megabytes(all []float64) string {
	var words []string
	for _, bytes := range all {
		words = append(words, fmt.Sprintf("%.0f", bytes/(1<<20)))
	}
	return strings.Join(words, " and ")
}

// crowd is a set of simulated filters that wait for their policies.
type crowd struct {
	server  string
	client  *http.Client
	waiters sync.WaitGroup
	cancel  context.CancelFunc
	// woken counts responses with changed policies, and failed the requests without a valid response.
	woken, failed atomic.Int64
	failure       atomic.Value
}

// gather starts a filter for each of the crowd's pods.
func (w *world) gather(t *testing.T) *crowd {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name   string
				Labels map[string]string
			}
		}
	}
	text := w.kubectl(t, "get", "--raw", "/api/v1/namespaces/"+crowdNamespace+"/pods")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != crowdPods {
		t.Fatalf("there are %d pods", len(list.Items))
	}
	ctx, cancel := context.WithCancel(w.ctx)
	c := &crowd{server: w.server, cancel: cancel, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: crowdPods * crowdVMs}}}
	for _, pod := range list.Items {
		for vm := range crowdVMs {
			c.waiters.Go(func() {
				c.follow(ctx, pod.Metadata.Labels["app"], pod.Metadata.Name, fmt.Sprintf("%s-%d", pod.Metadata.Name, vm))
			})
		}
	}
	return c
}

// leave stops all filters, and returns when they have ended.
func (c *crowd) leave() {
	c.cancel()
	c.waiters.Wait()
	c.client.CloseIdleConnections()
}

// follow runs one VM until its context ends.
func (c *crowd) follow(ctx context.Context, service, pod, vm string) {
	tag, revision := "", ""
	for ctx.Err() == nil {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+"/v1/policies?service="+service+"&namespace="+crowdNamespace+"&wait=20s", nil)
		if err != nil {
			c.fail(ctx, err)
			return
		}
		for name, value := range map[string]string{"X-Hfi-Node": "sidecar~" + pod, "X-Hfi-Pod": pod, "X-Hfi-Vm": vm, "If-None-Match": tag, "X-Hfi-Revision": revision} {
			if value != "" {
				request.Header.Set(name, value)
			}
		}
		response, err := c.client.Do(request)
		if err != nil {
			c.fail(ctx, err)
			continue
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		switch {
		case err != nil:
			c.fail(ctx, err)
		case response.StatusCode == http.StatusOK:
			tag, revision = response.Header.Get("ETag"), response.Header.Get("X-Hfi-Revision")
			c.woken.Add(1)
		case response.StatusCode != http.StatusNotModified:
			c.fail(ctx, fmt.Errorf("%s gets %s", vm, response.Status))
		}
	}
}

func (c *crowd) fail(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	c.failed.Add(1)
	c.failure.Store(err.Error())
	select {
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
}
