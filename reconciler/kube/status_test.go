package kube

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

func row(view *api.KubernetesView, name string) api.PolicyPods {
	for _, row := range view.Policies {
		if row.Name == name {
			return row
		}
	}
	return api.PolicyPods{Name: "none"}
}

// The status has, for each policy, the pods that it targets, which of them
// enforce it and which have no filter, and a warning if it can have no effect.
func TestStatusCountsThePodsOfEachPolicy(t *testing.T) {
	s := newFixture(t, nil)
	bare := podOfDeployment("demo", "legacy", "x", nil)
	bare.Annotations = nil
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil), podOfDeployment("demo", "frontend", "c", nil),
		podOfDeployment("demo", "catalog", "d", nil), podOfDeployment("other", "frontend", "e", nil), bare)
	set := setOf(t, "all=*/*", "front=frontend/demo", "front-anywhere=frontend/*", "nobody=checkout/demo", "old=legacy/demo")
	s.filters("demo", "frontend", map[string]api.FilterState{
		"frontend-abc12-a": api.FilterCurrent, "frontend-abc12-b": api.FilterBehind, "catalog-abc12-d": api.FilterCurrent})
	s.eventually("it knows the pods", func() bool { return s.view(set).Pods == 6 && s.view(set).Healthy })
	view := s.view(set)

	front := row(view, "front")
	if front.Pods != 3 || front.Current != 1 || front.Behind != 1 || front.WithoutFilterCount != 1 || front.WithoutFilter[0].Pod != "frontend-abc12-c" || front.Warning != "" {
		t.Errorf("front is %+v", front)
	}
	if got := row(view, "front-anywhere"); got.Pods != 4 || got.WithoutFilterCount != 2 {
		t.Errorf("front-anywhere is %+v", got)
	}
	all := row(view, "all")
	if all.Pods != 6 || all.WithoutSidecar != 1 || all.Current != 1 {
		t.Errorf("all is %+v", all)
	}
	// A filter selects policies by the service that it reports.
	if !slices.ContainsFunc(all.WithoutFilter, func(p api.PodProblem) bool {
		return p.Pod == "catalog-abc12-d" && strings.Contains(p.Reason, `says that it is service "frontend"`)
	}) {
		t.Errorf("a filter that reports another service is missing in %+v", all.WithoutFilter)
	}
	if got := row(view, "nobody"); got.Pods != 0 || !strings.Contains(got.Warning, "targets nothing") {
		t.Errorf("nobody is %+v", got)
	}
	if got := row(view, "old"); got.WithoutSidecar != 1 || !strings.Contains(got.Warning, "sidecar") {
		t.Errorf("old is %+v", got)
	}
	if view.PoliciesWithWarning != 2 || view.Policies[0].Warning == "" || view.Policies[1].Warning == "" {
		t.Errorf("%d warnings, and the first rows are %+v", view.PoliciesWithWarning, view.Policies[:2])
	}
	if count, known := s.Pods(schema.Selector{Service: "frontend", Namespace: "*"}); count != 4 || !known {
		t.Errorf("front-anywhere counts %d pods", count)
	}
}

// Counts follow pods that are created, deleted and recreated.
func TestPodsComeAndGo(t *testing.T) {
	s := newFixture(t, nil)
	first, second := podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil)
	count := func() int { n, _ := s.Pods(schema.Selector{Service: "frontend", Namespace: "demo"}); return n }
	s.addPods(first, second)
	s.eventually("both pods are counted", func() bool { return count() == 2 })
	s.deletePod(first)
	s.eventually("one pod is counted", func() bool { return count() == 1 })
	terminating := second.DeepCopy()
	terminating.DeletionTimestamp = &metav1.Time{Time: s.Now()}
	if err := s.pods.Tracker().Update(podResource, terminating, terminating.Namespace); err != nil {
		t.Fatal(err)
	}
	s.eventually("a pod that is being deleted is not counted", func() bool { return count() == 0 })
	s.addPods(first)
	s.eventually("a new pod is counted", func() bool { return count() == 1 })
	if values := s.Cluster.pods.pods.ListIndexFuncValues(bySelection); !slices.Contains(values, "frontend/demo/") || len(values) != 4 {
		t.Errorf("the index has %v", values)
	}
}

// The index selects the same pods as selection.Matches, after additions and deletions.
func TestPodIndexAgreesWithSelection(t *testing.T) {
	store := newPodStore(func() {}, func() {}, func(podID) {})
	var live []*metav1.PartialObjectMetadata
	for i := range 60 {
		pod := podOfDeployment([]string{"demo", "other", "third"}[i%3], []string{"frontend", "catalog", "cart", "db"}[i%4], fmt.Sprint(i), nil)
		if err := store.Add(pod); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			if err := store.Delete(pod); err != nil {
				t.Fatal(err)
			}
			continue
		}
		live = append(live, pod)
	}
	for _, service := range []string{"*", "frontend", "db", "none"} {
		for _, namespace := range []string{"*", "demo", "third", "none"} {
			selector := schema.Selector{Service: service, Namespace: namespace}
			want := 0
			for _, pod := range live {
				if selection.Matches(selector, selection.Workload{Service: WorkloadName(&pod.ObjectMeta), Namespace: pod.Namespace}) {
					want++
				}
			}
			key := selection.KeyOf(selector)
			if got := len(store.selected(key)); got != want || store.selectedCount(key) != want {
				t.Errorf("%v selects %d pods and counts %d, want %d", selector, got, store.selectedCount(key), want)
			}
		}
	}
	if pods, workloads, _ := store.size(); pods != len(live) || workloads != 12 {
		t.Errorf("%d pods of %d workloads, want %d of 12", pods, workloads, len(live))
	}
	if err := store.Replace(nil, ""); err != nil {
		t.Fatal(err)
	}
	if left := len(store.counts) + len(store.namespaces) + store.workloads + len(store.pods.ListKeys()) + len(store.pods.ListIndexFuncValues(bySelection)); left != 0 {
		t.Errorf("an empty cluster leaves %d entries: %v", left, store.counts)
	}
}

// A deleted pod is reported once, whether the watch delivered its deletion or
// a later list lacks it. A pod that is still being deleted is not reported.
func TestDeletedPodsAreReportedOnce(t *testing.T) {
	var reported []string
	store := newPodStore(func() {}, func() {}, func(id podID) { reported = append(reported, id.Name) })
	seen, terminating, missed, stays := podOfDeployment("demo", "frontend", "1", nil), podOfDeployment("demo", "frontend", "2", nil),
		podOfDeployment("demo", "frontend", "3", nil), podOfDeployment("demo", "frontend", "4", nil)
	if err := store.Replace([]any{seen, terminating, missed, stays}, ""); err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	terminating = terminating.DeepCopy()
	terminating.DeletionTimestamp = &now
	if err := errors.Join(store.Update(terminating), store.Delete(seen), store.Replace([]any{terminating, stays}, "")); err != nil {
		t.Fatal(err)
	}
	if want := []string{seen.Name, missed.Name}; !slices.Equal(reported, want) {
		t.Errorf("reported %v, want %v", reported, want)
	}
}

// The status lists a bounded number of policies and pods, and counts all.
func TestStatusIsBounded(t *testing.T) {
	s := newFixture(t, nil)
	for i := range 3 * api.MaxPodItems {
		s.addPods(podOfDeployment("demo", "frontend", fmt.Sprint(i), nil))
	}
	var policies []string
	for i := range api.MaxPolicyItems + 10 {
		policies = append(policies, fmt.Sprintf("p%d=frontend/demo", i))
	}
	set := setOf(t, policies...)
	s.eventually("it knows the pods", func() bool { return s.view(set).Pods == 3*api.MaxPodItems })
	view := s.view(set)
	if view.AwaitedPodsCount != 3*api.MaxPodItems || len(view.AwaitedPods) != api.MaxPodItems {
		t.Errorf("%d of %d awaited pods are listed", len(view.AwaitedPods), view.AwaitedPodsCount)
	}
	if len(view.Policies) != api.MaxPolicyItems || len(view.Policies[0].WithoutFilter) != api.MaxPodItems ||
		view.Policies[0].WithoutFilterCount != 3*api.MaxPodItems {
		t.Errorf("%d policies, %d of %d pods", len(view.Policies), len(view.Policies[0].WithoutFilter), view.Policies[0].WithoutFilterCount)
	}
}
