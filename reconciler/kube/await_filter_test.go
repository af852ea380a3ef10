package kube

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler/fleet"
)

// During a rollout of the daemon a sidecar may ask any replica for the filter:
// the plugin names a filter once all replicas serve it.
func TestPluginWaitsForEveryReplicaToHaveTheFilter(t *testing.T) {
	old, now := true, make(chan struct{}, 1000)
	var s *fixture
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		missing := false
		s.set(func() { missing = old })
		if missing || r.URL.Path != "/v1/filter/"+filterDigest+".wasm" {
			w.WriteHeader(http.StatusNotFound)
			select {
			case now <- struct{}{}:
			default:
			}
		}
	}))
	defer replica.Close()
	s = newFixture(t, func(s *fixture) {
		s.Replicas = func() fleet.Replicas {
			return fleet.Replicas{List: []api.Replica{{ID: "one"}, {ID: "two", URL: replica.URL}}}
		}
	})
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	<-now
	s.eventually("the status names the replica", func() bool {
		view := s.view(set)
		return len(view.WasmPlugins) == 1 && strings.Contains(view.WasmPlugins[0].Message, "waiting for replica two")
	})
	if s.plugin("demo", frontPlugin) != nil {
		t.Error("the plugin names a filter that a replica does not serve")
	}
	s.set(func() { old = false })
	s.eventually("then the plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
}

// withoutFilter starts a replica that does not serve the filter, and counts the requests for it.
func withoutFilter(t *testing.T) (replicas func() fleet.Replicas, asked *atomic.Int64) {
	asked = &atomic.Int64{}
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(replica.Close)
	return func() fleet.Replicas {
		return fleet.Replicas{List: []api.Replica{{ID: "two", URL: replica.URL}}}
	}, asked
}

// A replica that does not answer delays a pass once, and not for each namespace.
func TestReplicasAreAskedOncePerPass(t *testing.T) {
	replicas, asked := withoutFilter(t)
	s := newFixture(t, func(s *fixture) {
		s.Keep, s.Replicas = nil, replicas
		for i := range 40 {
			s.Keep = append(s.Keep, fmt.Sprintf("demo-%d", i))
		}
		s.Interval = time.Hour // passes follow changes only
	})
	for _, namespace := range s.Keep {
		s.addPods(podOfDeployment(namespace, "frontend", "a", nil))
	}
	s.eventually("the pods are seen", func() bool { return s.view(nil).Pods == len(s.Keep) })
	set := s.serve("front=frontend/*")
	s.eventually("all namespaces wait", func() bool { return len(s.view(set).WasmPlugins) == len(s.Keep) })
	if n := asked.Load(); n > int64(len(s.Keep))/2 {
		t.Errorf("the replica was asked %d times", n)
	}
}

// The wait for a replica without the filter is bounded, and its end is logged once.
func TestWaitForAReplicaIsBoundedAndLoggedOnce(t *testing.T) {
	replicas, asked := withoutFilter(t)
	var log bytes.Buffer
	s := newFixture(t, func(s *fixture) {
		s.Replicas, s.Logger = replicas, slog.New(slog.NewTextHandler(&log, nil))
		s.deny("create wasmplugins") // so that every pass asks again
	})
	s.addPods(podOfDeployment("demo", "frontend", "a", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("it waits", func() bool {
		view := s.view(set)
		return len(view.WasmPlugins) == 1 && strings.Contains(view.WasmPlugins[0].Message, "waiting for replica")
	})
	s.advance(DefaultRolloutLimit + time.Second)
	s.eventually("it stops waiting", func() bool { return len(s.view(set).MissingPermissions) == 1 })
	before := asked.Load()
	s.eventually("it keeps asking", func() bool { return asked.Load() > before+5 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "still does not serve this filter"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

// A replica that did not serve the filter for as long as plugins wait is not
// waited for again.
func TestReplicaWithoutFilterIsWaitedForOnce(t *testing.T) {
	replicas, _ := withoutFilter(t)
	s := newFixture(t, func(s *fixture) { s.Replicas = replicas })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	set := s.serve("front=frontend/demo")
	s.eventually("the first plugin waits", func() bool {
		view := s.view(set)
		return len(view.WasmPlugins) == 1 && strings.Contains(view.WasmPlugins[0].Message, "waiting for replica")
	})
	s.advance(s.RolloutLimit + time.Second)
	s.eventually("then it is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	s.serve()
	s.eventually("it is deleted", func() bool { return s.plugin("demo", frontPlugin) == nil })
	s.serve("cart=cart/demo")
	s.eventually("the next does not wait", func() bool { return s.plugin("demo", "hfi-cart") != nil })
}

// While a plugin names the filter, no other waits for a replica without it, such
// as one that cannot be reached for a moment.
func TestFurtherPluginsDoNotWaitForReplicas(t *testing.T) {
	replicas, _ := withoutFilter(t)
	var listed atomic.Pointer[fleet.Replicas]
	listed.Store(&fleet.Replicas{})
	s := newFixture(t, func(s *fixture) { s.Replicas = func() fleet.Replicas { return *listed.Load() } })
	s.addPods(podOfDeployment("demo", "frontend", "a", nil), podOfDeployment("demo", "cart", "b", nil))
	s.serve("front=frontend/demo")
	s.eventually("the first plugin is created", func() bool { return s.plugin("demo", frontPlugin) != nil })
	with := replicas()
	listed.Store(&with)
	s.serve("front=frontend/demo", "cart=cart/demo")
	s.eventually("the second is, too", func() bool { return s.plugin("demo", "hfi-cart") != nil })
}

// A redirect by a replica is not followed to wherever it leads.
func TestRedirectByAReplicaIsNotFollowed(t *testing.T) {
	var followed atomic.Bool
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed.Store(true) }))
	defer elsewhere.Close()
	replica := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusFound))
	defer replica.Close()
	c := New(Clients{})
	if err := c.keeper.headFilter(t.Context(), replica.URL); err == nil || followed.Load() {
		t.Errorf("the redirect was followed: %v, error %v", followed.Load(), err)
	}
	c.HTTP.CloseIdleConnections()
}

// Neither replicas nor modules are asked for at addresses that only another
// writer can have put there.
func TestNoConnectionsToAddressesOfNoServer(t *testing.T) {
	client := New(Clients{}).HTTP
	response, err := client.Head("http://0.0.0.0:1/")
	if err == nil {
		response.Body.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "no connections are made to") {
		t.Errorf("a request to an unspecified address: %v", err)
	}
}
