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
	for _, one := range view.Policies {
		if one.Name == name {
			return one
		}
	}
	return api.PolicyPods{Name: "none"}
}

// The status says of each policy which pods it targets, which of them have it
// in force, and which have nobody to enforce it; a policy that can have no
// effect is warned of.
func TestStatusTellsWhichPodsAPolicyTargets(t *testing.T) {
	s := newStage(t, nil)
	bare := podOfDeployment("demo", "legacy", "x", nil)
	bare.Annotations = nil
	s.start(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil), podOfDeployment("demo", "frontend", "c", nil),
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
	// What the filter says it is decides which policies it gets.
	if !slices.ContainsFunc(all.WithoutFilter, func(p api.PodProblem) bool {
		return p.Pod == "catalog-abc12-d" && strings.Contains(p.Reason, `says that it is service "frontend"`)
	}) {
		t.Errorf("a filter with another identity is none of %+v", all.WithoutFilter)
	}
	if got := row(view, "nobody"); got.Pods != 0 || !strings.Contains(got.Warning, "targets nothing") {
		t.Errorf("nobody is %+v", got)
	}
	if got := row(view, "old"); got.WithoutSidecar != 1 || !strings.Contains(got.Warning, "sidecar") {
		t.Errorf("old is %+v", got)
	}
	if view.PoliciesWithWarning != 2 || view.Policies[0].Warning == "" || view.Policies[1].Warning == "" {
		t.Errorf("%d warnings, and first come %+v", view.PoliciesWithWarning, view.Policies[:2])
	}
	if count, known := s.Pods(schema.Selector{Service: "frontend", Namespace: "*"}); count != 4 || !known {
		t.Errorf("%d pods are counted for front-anywhere", count)
	}
}

// Pods that go, that end and that are made anew change what is counted.
func TestPodsComeAndGo(t *testing.T) {
	s := newStage(t, nil)
	one, two := podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "frontend", "b", nil)
	count := func() int { n, _ := s.Pods(schema.Selector{Service: "frontend", Namespace: "demo"}); return n }
	s.start(one, two)
	s.eventually("both are counted", func() bool { return count() == 2 })
	s.stop(one)
	s.eventually("one is counted", func() bool { return count() == 1 })
	going := two.DeepCopy()
	going.DeletionTimestamp = &metav1.Time{Time: s.Now()}
	if err := s.pods.Tracker().Update(podResource, going, going.Namespace); err != nil {
		t.Fatal(err)
	}
	s.eventually("one that is going is not counted", func() bool { return count() == 0 })
	s.start(one)
	s.eventually("a new one is counted", func() bool { return count() == 1 })
	if s.Cluster.pods.byKey[selection.Key{Service: "frontend", Namespace: "demo"}] == nil || len(s.Cluster.pods.byKey) != 4 {
		t.Errorf("the index has %v", s.Cluster.pods.byKey)
	}
}

// The index agrees with the rule of selection itself, whatever came and went.
func TestPodIndexAgreesWithSelection(t *testing.T) {
	store := newPodStore(func() {}, func(podID) {})
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
			if got := len(store.selected(key)); got != want || store.count(key) != want {
				t.Errorf("%v selects %d pods and counts %d, want %d", selector, got, store.count(key), want)
			}
		}
	}
	if err := store.Replace(nil, ""); err != nil || len(store.counts)+len(store.byKey)+len(store.inNamespace)+len(store.workloads)+len(store.pods) != 0 {
		t.Errorf("an empty cluster leaves %v", store.counts)
	}
}

// A pod that is no more is told of once, whether its end was seen or missed;
// one that is only going is not.
func TestPodsThatAreNoMoreAreToldOf(t *testing.T) {
	var told []string
	store := newPodStore(func() {}, func(id podID) { told = append(told, id.Name) })
	seen, going, missed, stays := podOfDeployment("demo", "frontend", "1", nil), podOfDeployment("demo", "frontend", "2", nil),
		podOfDeployment("demo", "frontend", "3", nil), podOfDeployment("demo", "frontend", "4", nil)
	if err := store.Replace([]any{seen, going, missed, stays}, ""); err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	going = going.DeepCopy()
	going.DeletionTimestamp = &now
	if err := errors.Join(store.Update(going), store.Delete(seen), store.Replace([]any{going, stays}, "")); err != nil {
		t.Fatal(err)
	}
	if want := []string{seen.Name, missed.Name}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}

// What a status shows is bounded; what it counts is not.
func TestStatusIsBounded(t *testing.T) {
	s := newStage(t, nil)
	for i := range 3 * api.MaxPodItems {
		s.start(podOfDeployment("demo", "frontend", fmt.Sprint(i), nil))
	}
	var policies []string
	for i := range api.MaxPolicyItems + 10 {
		policies = append(policies, fmt.Sprintf("p%d=frontend/demo", i))
	}
	set := setOf(t, policies...)
	s.eventually("it knows the pods", func() bool { return s.view(set).Pods == 3*api.MaxPodItems })
	view := s.view(set)
	if len(view.Policies) != api.MaxPolicyItems || len(view.Policies[0].WithoutFilter) != api.MaxPodItems ||
		view.Policies[0].WithoutFilterCount != 3*api.MaxPodItems {
		t.Errorf("%d policies, %d of %d pods", len(view.Policies), len(view.Policies[0].WithoutFilter), view.Policies[0].WithoutFilterCount)
	}
}
