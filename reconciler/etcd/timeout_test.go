package etcd

import (
	"errors"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// With an etcd that takes longer for each request than the first timeout allows,
// a replica leads and publishes, also if there are several endpoints.
func TestASlowEtcdHasALeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		endpoints int
		fastFirst bool
	}{
		{"slow at first", 1, false},
		{"slow after fast writes", 1, true},
		{"three endpoints, slow at first", 3, false},
		{"three endpoints, slow after fast writes", 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t)
			a := externalStore("a")
			a.TryTimeout = 100 * time.Millisecond
			var links []*link
			for range c.endpoints {
				slow := newLink(t, server.Endpoint)
				links = append(links, slow)
				a.Access.Endpoints = append(a.Access.Endpoints, slow.endpoint)
			}
			delay := func(by time.Duration) {
				for _, slow := range links {
					slow.delay.Store(int64(by))
				}
			}
			const long = 300 * time.Millisecond
			if !c.fastFirst {
				delay(long)
			}
			openStore(t, a)
			eventually(t, "etcd was read", func() bool { return a.current().phase != cacheEmpty })
			term := campaign(t, a)
			if c.fastFirst {
				publish(t, term, publication("c0", policies(t, 3, 1)))
				delay(long)
			}
			// It takes some requests until the timeouts fit, and that may cost a term.
			if err := testtool.Poll(waitLimit, func() error {
				_, err := term.Publish(testContext(t), publication("c1", policies(t, 3, 2)))
				if errors.Is(err, reconciler.ErrDeposed) {
					term = campaign(t, a)
				}
				return err
			}); err != nil {
				t.Error(err)
			}
			eventually(t, "etcd counts as healthy", func() bool { return a.View().Health.Healthy })
			delay(0)
		})
	}
}

// A timeout follows the slowest request before it, and is short again only after
// a fast one.
func TestAdaptiveTimeout(t *testing.T) {
	s := New(DefaultPrefix, "a", quiet())
	s.StateKeys = testKeys
	s.Access.Endpoints = []string{"http://one"}
	bounds, adaptive := s.timeoutBounds(), &adaptiveTimeout{}
	want := func(limit time.Duration, when string) {
		t.Helper()
		if got := adaptive.current(bounds); got != limit {
			t.Errorf("%s a request has %s, want %s", when, got, limit)
		}
	}
	want(s.RequestTimeout, "at first, with one endpoint,")
	adaptive.observe(s.TryTimeout*11/10, bounds)
	want(s.RequestTimeout, "after a slow request")
	adaptive.observe(s.TryTimeout/10, bounds)
	want(s.TryTimeout, "after a fast request")
	adaptive.exceeded(s.TryTimeout, bounds)
	adaptive.exceeded(2*s.TryTimeout, bounds)
	want(4*s.TryTimeout, "after two that timed out")
	adaptive.observe(s.TryTimeout*11/10, bounds)
	want(4*s.TryTimeout, "after a slow request")
	adaptive.exceeded(4*s.TryTimeout, bounds)
	want(s.RequestTimeout, "after many that timed out")

	s.Access.Endpoints = append(s.Access.Endpoints, "http://two")
	bounds, adaptive = s.timeoutBounds(), &adaptiveTimeout{}
	want(s.TryTimeout, "at first, with two endpoints,")
}
