package http

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/schema"
)

// fakeCluster shows the arguments of its calls.
type fakeCluster struct{}

func (fakeCluster) Status(set *schema.Set, fleet api.FiltersStatus, report *api.ClusterReport) api.KubernetesStatus {
	view := &api.KubernetesView{Healthy: true, Pods: len(fleet.Items), Workloads: set.Len()}
	if report != nil {
		view.MissingPermissions = report.MissingPermissions
	}
	return api.KubernetesStatus{Enabled: true, KubernetesView: view}
}

func (fakeCluster) Pods(selector schema.Selector) (int, bool) {
	return len(selector.Service), selector.Namespace == "demo"
}

func kubernetes(t *testing.T, d *daemon) api.KubernetesStatus {
	t.Helper()
	var status api.Status
	if err := json.Unmarshal([]byte(d.ask("GET /v1/status").expect(t, 200).body), &status); err != nil {
		t.Fatal(err)
	}
	return status.Kubernetes
}

// Outside a cluster the status says no more than that.
func TestStatusOutsideACluster(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	if body := d.ask("GET /v1/status").expect(t, 200).body; !strings.Contains(body, `"kubernetes":{"enabled":false}`) {
		t.Errorf("got %s", body)
	}
	if body := d.ask("GET /v1/policies/status").expect(t, 200).body; strings.Contains(body, `"pods"`) {
		t.Errorf("got %s", body)
	}
}

// In a cluster the policies served are compared with all filters, however
// many, and the status of the policies counts the pods targeted where known.
func TestStatusInACluster(t *testing.T) {
	d := start(t, func(s *Server) {
		s.Cluster = fakeCluster{}
		s.fleet.Pods = func() (func(namespace, name string) bool, bool) {
			return func(string, string) bool { return true }, true
		}
	})
	d.serve(stateOf(1, exampleSet()))
	for i := range api.MaxFilterItems + 5 {
		d.fleet.Ask(api.FilterID{Pod: fmt.Sprint(i)}, "1", "", fleet.Caller{})
	}
	if got := kubernetes(t, d); !got.Enabled || got.Pods != api.MaxFilterItems+5 || got.Workloads != exampleSet().Len() {
		t.Errorf("got %+v", got.KubernetesView)
	}
	if status := d.filterStatus(); len(status.Items) != api.MaxFilterItems {
		t.Errorf("the filters' list has %d items", len(status.Items))
	}
	var rows api.PoliciesStatus
	if err := json.Unmarshal([]byte(d.ask("GET /v1/policies/status").expect(t, 200).body), &rows); err != nil {
		t.Fatal(err)
	}
	for _, row := range rows.Policies {
		if known := row.Namespace == "demo"; known != (row.Pods != nil) || known && *row.Pods != len(row.TargetService) {
			t.Errorf("%s has pods %v", row.Name, row.Pods)
		}
	}
}

// Every replica shows the leader's report on the cluster.
func TestFollowerShowsTheLeadersClusterReport(t *testing.T) {
	a, b := pair(t, func(s *Server) { s.Cluster = fakeCluster{} })
	b.fleet.SetClusterReport(&api.ClusterReport{MissingPermissions: []string{"create wasmplugins in namespace demo"}})
	if got := kubernetes(t, a); len(got.MissingPermissions) != 1 {
		t.Errorf("the follower shows %+v", got.KubernetesView)
	}
	if got := kubernetes(t, b); len(got.MissingPermissions) != 0 {
		t.Errorf("the leader shows a report as that of another: %+v", got.KubernetesView)
	}
}
