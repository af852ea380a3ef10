package kube

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubetesting "k8s.io/client-go/testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// plugin returns a WasmPlugin in the cluster, or nil.
func (s *fixture) plugin(namespace, name string) *unstructured.Unstructured {
	s.t.Helper()
	found, err := s.objects.Tracker().Get(wasmPlugins.resource, namespace, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	encoded, err := json.Marshal(found)
	if err != nil {
		s.t.Fatal(err)
	}
	plugin := &unstructured.Unstructured{}
	if err := json.Unmarshal(encoded, &plugin.Object); err != nil {
		s.t.Fatal(err)
	}
	return plugin
}

// eventsIn returns the reasons of the Events in a namespace, in no order.
func (s *fixture) eventsIn(namespace string) (reasons []string) {
	s.t.Helper()
	list, err := s.objects.Tracker().List(eventResource, eventResource.GroupVersion().WithKind("Event"), namespace)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, event := range list.(*unstructured.UnstructuredList).Items {
		reason, _, _ := unstructured.NestedString(event.Object, "reason")
		reasons = append(reasons, reason)
	}
	return reasons
}

// attemptedEvents returns the reasons of all Events that it tried to create, in no order.
func (s *fixture) attemptedEvents() []string {
	var reasons []string
	for _, action := range s.objects.Actions() {
		if create, ok := action.(kubetesting.CreateAction); ok && action.GetResource() == eventResource {
			reason, _, _ := unstructured.NestedString(create.GetObject().(*unstructured.Unstructured).Object, "reason")
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// condition returns one of hfi's conditions in a WasmPlugin's status in the cluster.
func (s *fixture) condition(namespace, name string, kind string) metav1.Condition {
	s.t.Helper()
	object := s.plugin(namespace, name)
	if object == nil {
		return metav1.Condition{}
	}
	read := readPlugin(s.delivery(), object, s.baseURL)
	if read == nil {
		s.t.Fatalf("%s/%s does not belong to this control plane", namespace, name)
	}
	if condition := meta.FindStatusCondition(read.conditions, kind); condition != nil {
		return *condition
	}
	return metav1.Condition{}
}

func (s *fixture) view(set *schema.Set) *api.KubernetesView {
	s.mu.Lock()
	fleet, report := s.fleet, s.report
	s.mu.Unlock()
	return s.Status(set, fleet, report).KubernetesView
}

func (s *fixture) eventually(what string, holds func() bool) {
	s.t.Helper()
	eventually(s.t, what, holds)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	testtool.Eventually(t, what, holds)
}

// consistently fails if a condition stops holding during several passes of the keeper.
func (s *fixture) consistently(what string, holds func() bool) {
	s.t.Helper()
	testtool.Throughout(s.t, 15*s.Interval, what, func() error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// quiet waits until a count does not change during 20 intervals.
func (s *fixture) quiet(what string, count func() int) {
	s.t.Helper()
	s.eventually(what, func() bool {
		before := count()
		time.Sleep(20 * s.Interval)
		return count() == before
	})
}

// A pod exists from its creation until its deletion. That none exists is not
// said while the pods cannot be seen.
func TestPodsExist(t *testing.T) {
	s := newFixture(t, nil)
	first := podOfDeployment("demo", "frontend", "a", nil)
	s.addPods(first)
	is := func(want bool) func() bool {
		return func() bool {
			exist, known := s.Exist()
			return known && exist("demo", first.Name) == want && !exist("demo", "invented") && !exist("other", first.Name)
		}
	}
	s.eventually("the pod exists", is(true))
	s.deletePod(first)
	s.eventually("it does no more", is(false))
	s.problems.record("watch pods", errors.New("no route to host"))
	if _, known := s.Exist(); known {
		t.Error("pods that cannot be watched are said to be known")
	}
}
