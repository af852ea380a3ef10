package etcd

import (
	"testing"
	"time"

	"github.com/boifi/hfi/internal/etcdtest"
)

// With an etcd that takes longer for each request than the first timeout allows,
// a replica leads and publishes.
func TestASlowEtcdHasALeader(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]time.Duration{"slow at first": 0, "slow after fast writes": 100 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := etcdtest.Start(t)
			slow := newLink(t, server.Endpoint)
			a := externalStore("a", slow.endpoint)
			a.TryTimeout, a.writeTimeout.limit = 100*time.Millisecond, limit
			openStore(t, a)
			eventually(t, "etcd was read", func() bool { return a.current().phase != cacheEmpty })
			slow.delay.Store(int64(3 * a.TryTimeout))
			publish(t, campaign(t, a), publication("c1", policies(t, 3, 1)))
			slow.delay.Store(0)
		})
	}
}

// The timeout of a write follows the slowest write before it, and is short again
// only after a fast one.
func TestWriteTimeout(t *testing.T) {
	s := New(DefaultPrefix, "a", quiet())
	s.Access.Endpoints = []string{"http://one"}
	want := func(limit time.Duration, when string) {
		t.Helper()
		if s.currentWriteTimeout() != limit {
			t.Errorf("%s a write has %s, want %s", when, s.currentWriteTimeout(), limit)
		}
	}
	want(s.RequestTimeout, "at first, with one endpoint,")
	s.observeWrite(s.TryTimeout * 11 / 10)
	want(s.RequestTimeout, "after a slow write")
	s.observeWrite(s.TryTimeout / 10)
	want(s.TryTimeout, "after a fast write")
	s.writeTimedOut(s.TryTimeout)
	s.writeTimedOut(2 * s.TryTimeout)
	want(4*s.TryTimeout, "after two that timed out")
	s.observeWrite(s.TryTimeout * 11 / 10)
	want(4*s.TryTimeout, "after a slow write")
	s.writeTimedOut(4 * s.TryTimeout)
	want(s.RequestTimeout, "after many that timed out")
}
