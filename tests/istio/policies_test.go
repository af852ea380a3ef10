//go:build linux

package istio

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
)

// abort returns a policy that aborts a percentage of a service's requests.
func abort(name, service, namespace string, status int, percentage float64) string {
	return fmt.Sprintf("metadata: {name: %s}\nspec:\n  selector: {service: %q, namespace: %q}\n  rules:\n  - fault: {percentage: %v, abort: {status: %d}}\n",
		name, service, namespace, percentage, status)
}

// push commits these policies as the only ones, pushes, and sends a webhook as git
// servers do. It returns the commit.
func (w *world) push(t testing.TB, policies ...string) string {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(w.repo.Work(), "policies")); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"policies/.keep": ""}
	for i, text := range policies {
		files[fmt.Sprintf("policies/policy-%d.yaml", i)] = text
	}
	// An earlier story may have made a commit with the command line.
	w.repo.Git("fetch", "-q", "origin", "main")
	w.repo.Git("reset", "-q", "--soft", "origin/main")
	commit := w.repo.Commit(fmt.Sprintf("Have %d policies", len(policies)), files)
	w.repo.Push()
	w.webhook(t)
	return commit
}

// webhook sends a webhook to the daemon.
func (w *world) webhook(t testing.TB) {
	t.Helper()
	response, err := client.Post(w.server+"/v1/webhook", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		t.Fatalf("the webhook got %s", response.Status)
	}
}

// pushAndWait pushes policies and waits until every filter has them.
func (w *world) pushAndWait(t testing.TB, policies ...string) {
	t.Helper()
	w.wait(t, w.push(t, policies...))
}

func (w *world) wait(t testing.TB, commit string) {
	t.Helper()
	w.hfi(t, "", "wait", commit, "--timeout", "60s")
}

// hfi runs the command line as a user of the repository and the daemon does.
func (w *world) hfi(t testing.TB, input string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(w.programs, "hfi"), arguments...)
	command.Env = append(gittest.Environment(), "HFI_SERVER="+w.server, "HFI_REPO="+w.repo.Bare())
	command.Dir, command.Stdin = t.TempDir(), strings.NewReader(input)
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil {
		t.Fatalf("hfi %q: %v\n%s%s", arguments, err, out.String(), errs.String())
	}
	return out.String()
}

// pluginFile is the manifest that adds the filter to every workload of demo.
const pluginFile = "deploy/istio/namespace.yaml"

// loadPlugin applies the manifest and waits until the filter is current in all four pods.
func (w *world) loadPlugin(t testing.TB) {
	t.Helper()
	w.kubectl(t, "apply", "--validate=strict", "-f", w.manifest(pluginFile))
	took := w.awaitFilters(t)
	t.Logf("the filter was connected and current in all pods after %.1f s", took.Seconds())
	// Its VMs, one for each of Envoy's workers, do not start at the same moment.
	time.Sleep(time.Second)
	w.awaitFilters(t)
}

// awaitFilters waits until the filter of each of the four pods is connected and current.
func (w *world) awaitFilters(t testing.TB) time.Duration {
	t.Helper()
	pods := append(w.frontends(t), w.catalog(t))
	return eventually(t, "the filter is current in every pod", 2*time.Minute, func() error {
		filters, err := w.filters()
		if err != nil {
			return err
		}
		current := map[string]bool{}
		for _, filter := range filters.Items {
			current[filter.Pod] = filter.State == api.FilterCurrent
		}
		for _, pod := range pods {
			if !current[pod.name] {
				return fmt.Errorf("%s has none: %+v", pod.name, filters)
			}
		}
		return nil
	})
}

func (w *world) filters() (api.FiltersStatus, error) {
	var status api.Status
	err := w.tryAsk("/v1/status", &status)
	return status.Filters, err
}
