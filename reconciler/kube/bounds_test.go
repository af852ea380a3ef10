package kube

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"
)

// One pass tries a bounded number of changes whether they succeed or not, only
// one of a kind that fails slowly, and each in turn.
func TestFailingChangesOfOnePassAreBounded(t *testing.T) {
	for _, c := range []struct {
		what    string
		slow    bool
		first   int // attempts in the first pass
		atLeast int // workloads tried in ten passes
	}{{"fast", false, 3, 8}, {"slow", true, 1, 8}} {
		t.Run(c.what, func(t *testing.T) {
			s := newFixture(t, func(s *fixture) {
				s.Settle, s.Interval, s.MaxChanges, s.CallTimeout, s.Keep = time.Hour, time.Hour, 3, 100*time.Millisecond, []string{"demo", "shop"}
				s.objects.PrependReactor("create", "wasmplugins", func(kubetesting.Action) (bool, runtime.Object, error) {
					if c.slow {
						<-time.After(s.CallTimeout * 3 / 4)
					}
					return true, nil, errors.New("failed calling webhook")
				})
			})
			var policies []string
			for i := range 8 {
				namespace := s.Keep[i%2]
				s.addPods(podOfDeployment(namespace, fmt.Sprintf("service-%d", i), "a", nil))
				policies = append(policies, fmt.Sprintf("p%d=service-%d/%s", i, i, namespace))
			}
			eventually(t, "the pods and plugins are known", func() bool {
				_, synced := s.plugins.list()
				return synced && s.view(nil).Pods == 8
			})
			// The keeper waits for Settle, so this is the only goroutine that uses it.
			s.keeper.serve(setOf(t, policies...))
			tried := map[string]bool{}
			for pass := range 10 {
				for _, namespace := range s.Keep {
					s.keeper.due[namespace] = time.Time{}
				}
				s.keeper.reconcile(t.Context())
				changes := s.changes()
				if pass == 0 && len(changes) != c.first {
					t.Errorf("the first pass tried %v", changes)
				}
				for _, change := range changes {
					tried[change] = true
				}
				s.advance(s.RetryMax + time.Second)
			}
			if len(tried) < c.atLeast {
				t.Errorf("ten passes tried %v", tried)
			}
		})
	}
}

// Statuses that cannot be written keep no other from being written.
func TestFailingStatusesDelayNoOthers(t *testing.T) {
	for what, wait := range map[string]time.Duration{"retried later": time.Hour, "retried in each pass": time.Nanosecond} {
		t.Run(what, func(t *testing.T) {
			var plugins []runtime.Object
			for i := range 5 {
				plugins = append(plugins, pluginObject("aaa", fmt.Sprintf("by-hand-%d", i), nil))
			}
			s := newFixture(t, func(s *fixture) {
				s.MaxChanges, s.RetryMax = 1, wait
				s.objects.PrependReactor("patch", "wasmplugins", func(action kubetesting.Action) (bool, runtime.Object, error) {
					return action.GetNamespace() == "aaa", nil, errors.New("etcdserver: request timed out")
				})
			}, append(plugins, pluginObject("demo", "by-hand", nil))...)
			s.addPods(podOfDeployment("demo", "frontend", "a", nil))
			s.serve()
			s.eventually("the other namespace's status is written", func() bool {
				return s.condition("demo", "by-hand", conditionLoaded).Type != ""
			})
		})
	}
}
