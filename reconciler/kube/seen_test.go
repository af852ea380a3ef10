package kube

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kubetesting "k8s.io/client-go/testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema"
)

// plugin is the WasmPlugin of a name, or nil.
func (s *stage) plugin(namespace, name string) *unstructured.Unstructured {
	s.t.Helper()
	found, err := s.objects.Tracker().Get(pluginResource, namespace, name)
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

// made are the reasons of the Events that are in a namespace, in no order.
func (s *stage) made(namespace string) (reasons []string) {
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

// events are the reasons of all Events that it tried to make, in no order.
func (s *stage) events() []string {
	var reasons []string
	for _, action := range s.objects.Actions() {
		if create, ok := action.(kubetesting.CreateAction); ok && action.GetResource() == eventResource {
			reason, _, _ := unstructured.NestedString(create.GetObject().(*unstructured.Unstructured).Object, "reason")
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// condition is one of a WasmPlugin's, as it stands in the cluster.
func (s *stage) condition(namespace, name string, kind api.ConditionType) (found api.Condition) {
	s.t.Helper()
	object := s.plugin(namespace, name)
	if object == nil {
		return api.Condition{}
	}
	read := readPlugin(object, s.home)
	if read == nil {
		s.t.Fatalf("%s/%s is none of ours", namespace, name)
	}
	for _, condition := range read.conditions {
		if condition.Type == kind {
			return condition
		}
	}
	return api.Condition{}
}

func (s *stage) view(set *schema.Set) *api.KubernetesView {
	s.mu.Lock()
	fleet, report := s.fleet, s.report
	s.mu.Unlock()
	return s.Status(set, fleet, report).KubernetesView
}

func (s *stage) eventually(what string, holds func() bool) {
	s.t.Helper()
	eventually(s.t, what, holds)
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	testtool.Eventually(t, what, holds)
}

// holds fails if something ceases to hold while the keeper looks a few times.
func (s *stage) holds(what string, holds func() bool) {
	s.t.Helper()
	testtool.Throughout(s.t, 15*s.Interval, what, func() error {
		if !holds() {
			return errors.New("it does not hold")
		}
		return nil
	})
}

// quiet waits until something is done no more: not once in twenty intervals.
// Before that, what was written comes back by the watch, and has an answer.
func (s *stage) quiet(what string, done func() int) {
	s.t.Helper()
	s.eventually(what, func() bool {
		before := done()
		time.Sleep(20 * s.Interval)
		return done() == before
	})
}
