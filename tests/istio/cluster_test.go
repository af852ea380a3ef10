//go:build linux

package istio

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// loadedCondition is the condition Loaded in the status of a WasmPlugin or another
// kind of object, as users read it with kubectl.
func (w *world) loadedCondition(kind, name string) (api.Condition, error) {
	var none api.Condition
	text, err := w.lab.Kubectl(w.ctx, "", "-n", "demo", "get", kind, name, "-o", "jsonpath={.status.conditions}")
	if err != nil {
		return none, err
	}
	var conditions []api.Condition
	if err := json.Unmarshal([]byte(text), &conditions); err != nil {
		return none, fmt.Errorf("%q: %w", text, err)
	}
	for _, condition := range conditions {
		if condition.Type == "Loaded" {
			return condition, nil
		}
	}
	return none, fmt.Errorf("there is no condition Loaded: %s", text)
}

// says waits until the condition Loaded of a WasmPlugin has a status, a reason and a message.
func (w *world) says(t *testing.T, name, status, reason string, limit time.Duration, parts ...string) {
	t.Helper()
	w.saysOf(t, "wasmplugin", name, status, reason, limit, parts...)
}

func (w *world) saysOf(t *testing.T, kind, name, status, reason string, limit time.Duration, parts ...string) {
	t.Helper()
	took := eventually(t, fmt.Sprintf("condition Loaded=%s, %s, of %s %s", status, reason, kind, name), limit, func() error {
		condition, err := w.loadedCondition(kind, name)
		if err != nil {
			return err
		}
		wrong := condition.Status != status || condition.Reason != reason
		for _, part := range parts {
			wrong = wrong || !strings.Contains(condition.Message, part)
		}
		if wrong {
			return fmt.Errorf("it is %+v", condition)
		}
		return nil
	})
	t.Logf("%s %s says Loaded=%s, %s, after %.1f s", kind, name, status, reason, took.Seconds())
}

// A WasmPlugin's status and Events say whether its module is loaded and, if not, why.
func loadFailureStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	w.says(t, "hfi", "True", "Loaded", time.Minute, "loaded on 4 of 4 pods")
	manifest, err := os.ReadFile(w.manifest(pluginFile))
	if err != nil {
		t.Fatal(err)
	}
	const url = "url: http://hfi-control-plane.boifi:8080/v1/filter.wasm"
	for _, c := range []struct{ what, spec, reason, message string }{
		{"an unreachable address", "url: http://no-such-registry.boifi:8080/filter.wasm", "UnreachableURL", "no-such-registry"},
		{"a missing module", "url: http://hfi-control-plane.boifi:8080/v1/no-filter.wasm", "UnreachableURL", "404"},
		{"a wrong digest", "url: http://" + hostAddress + ":" + w.gitPort() + "/policies.git/HEAD\n  sha256: " + strings.Repeat("f0", 32), "WrongDigest", "sha256"},
	} {
		t.Run(c.what, func(t *testing.T) {
			w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
			broken := strings.Replace(string(manifest), url, c.spec, 1)
			broken = strings.Replace(broken, "control_plane_address: hfi-control-plane.boifi:8080", "control_plane_address: hfi-control-plane.boifi:8080\n    max_delay: 1m", 1)
			w.apply(t, broken)
			w.says(t, "hfi", "False", c.reason, 2*time.Minute, c.message)
			for _, pod := range append(w.frontends(t), w.catalog(t)) {
				w.all(t, pod, 200)
			}
			if events := w.kubectl(t, "-n", "demo", "get", "events"); !regexp.MustCompile(c.reason + ".*" + c.message).MatchString(events) {
				t.Errorf("no Event mentions %s:\n%s", c.reason, events)
			}
			if story := w.kubectl(t, "-n", "demo", "describe", "wasmplugin", "hfi"); !strings.Contains(story, c.reason) {
				t.Errorf("kubectl describe does not mention %s:\n%s", c.reason, story)
			}
		})
	}
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.loadPlugin(t)
	w.says(t, "hfi", "True", "Loaded", 2*time.Minute, "loaded on 4 of 4 pods")
}

// The status shows for each policy the number of pods that it targets and of those
// that enforce it, and warns if a policy targets nothing.
func targetsStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("some", "frontend", "demo", 418, 100), abort("none", "cart", "demo", 418, 100))
	w.loadPlugin(t)
	policy := func(name string) (found api.PolicyPods, err error) {
		var status api.Status
		if err := w.tryAsk("/v1/status", &status); err != nil {
			return found, err
		}
		if !status.Kubernetes.Enabled || status.Kubernetes.KubernetesView == nil || !status.Kubernetes.Healthy || len(status.Kubernetes.MissingPermissions) > 0 {
			return found, fmt.Errorf("the daemon does not watch the cluster: %+v", status.Kubernetes)
		}
		for _, each := range status.Kubernetes.Policies {
			if each.Name == name {
				return each, nil
			}
		}
		return found, fmt.Errorf("policy %s is missing: %+v", name, status.Kubernetes.Policies)
	}
	eventually(t, "policy some is enforced by three pods", 30*time.Second, func() error {
		some, err := policy("some")
		if err == nil && (some.Pods != 3 || some.Current != 3 || some.WithoutFilterCount != 0 || some.Warning != "") {
			err = fmt.Errorf("%+v", some)
		}
		return err
	})
	eventually(t, "a warning of policy none", 30*time.Second, func() error {
		none, err := policy("none")
		if err == nil && (none.Pods != 0 || none.Warning == "") {
			err = fmt.Errorf("%+v", none)
		}
		return err
	})
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	// Envoy drains the filter first, and then its VMs count for 40 s: another could ask for them.
	eventually(t, "three pods without a filter", 3*time.Minute, func() error {
		some, err := policy("some")
		if err == nil && (some.Pods != 3 || some.Current != 0 || some.WithoutFilterCount != 3) {
			err = fmt.Errorf("%+v", some)
		}
		return err
	})
}

// While the API server restarts or is unreachable, policies are still served and
// enforced, and the daemon watches the cluster again afterwards.
func restartStory(t *testing.T, w *world) {
	w.pushAndWait(t, abort("half", "frontend", "demo", 418, 100))
	w.loadPlugin(t)
	pod := w.frontends(t)[0]
	if err := w.lab.RestartAPIServer(w.ctx, 3*time.Second); err != nil {
		t.Fatal(err)
	}
	w.all(t, pod, 418)
	w.pushAndWait(t, abort("half", "frontend", "demo", 419, 100))
	w.all(t, pod, 419)
	w.kubectl(t, "-n", "demo", "delete", "pod", pod.name)
	w.kubectl(t, "-n", "demo", "rollout", "status", "deployment/frontend", "--timeout=55s")
	w.awaitFilters(t)
	eventually(t, "the daemon sees the new pod", time.Minute, func() error {
		var status api.Status
		if err := w.tryAsk("/v1/status", &status); err != nil {
			return err
		}
		view := status.Kubernetes.KubernetesView
		if view == nil || !view.Healthy || len(view.Policies) != 1 || view.Policies[0].Pods != 3 || view.Policies[0].Current != 3 {
			return fmt.Errorf("it sees %+v", view)
		}
		return nil
	})
}
