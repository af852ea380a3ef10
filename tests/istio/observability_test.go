//go:build linux

package istio

import (
	"slices"
	"strings"
	"testing"
)

// Faults are counted in the metrics that Prometheus scrapes from the sidecar,
// policies have a status, and creating and deleting a policy takes effect in the
// mesh.
func observabilityStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	pod := w.frontends(t)[0]
	const aborts, delays = "hfi_faults_aborts_total", "hfi_faults_delays_total"
	aborted, delayed := w.metric(t, pod, aborts), w.metric(t, pod, delays)

	w.hfi(t, abort("seen-abort", "frontend", "demo", 503, 100), "apply", "-f", "-")
	w.wait(t, w.repo.Server("rev-parse", "main"))
	w.send(t, pod, 30)
	if got := w.metric(t, pod, aborts) - aborted; got != 30 {
		t.Errorf("30 requests were aborted, but the metric rose by %d", got)
	}
	w.hfi(t, "metadata: {name: seen-delay}\nspec: {selector: {service: frontend, namespace: demo}, rules: [{fault: {delay_ms: 5}}]}\n", "apply", "-f", "-")
	w.wait(t, w.repo.Server("rev-parse", "main"))
	var status struct {
		Summary struct {
			Total  int `json:"total_policies"`
			Abort  int `json:"abort_policies"`
			Delay  int `json:"delay_policies"`
			Active int `json:"active_policies"`
		} `json:"summary"`
		Policies []struct {
			Name, Namespace string
			TargetService   string   `json:"target_service"`
			RulesCount      int      `json:"rules_count"`
			FaultTypes      []string `json:"fault_types"`
			Active          bool
		} `json:"policies"`
	}
	w.ask(t, "/v1/policies/status", &status)
	if s := status.Summary; s.Total != 2 || s.Abort != 1 || s.Delay != 1 || s.Active != 2 || len(status.Policies) != 2 {
		t.Errorf("the status of the policies is %+v", status)
	} else if p := status.Policies[0]; p.Name != "seen-abort" || p.Namespace != "demo" || p.TargetService != "frontend" || p.RulesCount != 1 || !slices.Equal(p.FaultTypes, []string{"abort"}) || !p.Active {
		t.Errorf("the status of seen-abort is %+v", p)
	}

	w.hfi(t, "", "delete", "seen-abort")
	w.wait(t, w.repo.Server("rev-parse", "main"))
	if report := w.send(t, pod, 20); report.Statuses[200] != 20 {
		t.Errorf("after the abort was deleted requests got %v", report.Statuses)
	}
	if got := w.metric(t, pod, delays) - delayed; got != 50-30 {
		t.Errorf("20 requests were delayed, but the metric rose by %d", got)
	}
	w.hfi(t, "", "delete", "seen-delay")
	w.wait(t, w.repo.Server("rev-parse", "main"))
	w.send(t, pod, 20)
	if a, d := w.metric(t, pod, aborts)-aborted, w.metric(t, pod, delays)-delayed; a != 30 || d != 20 {
		t.Errorf("without a policy the metrics rose: %d aborts, %d delays", a, d)
	}
	if list := w.kubectl(t, "get", "wasmplugins", "-n", "demo"); !strings.Contains(list, "hfi") {
		t.Errorf("kubectl get wasmplugins shows:\n%s", list)
	}
}
