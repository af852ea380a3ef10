package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/backoff"
)

// session is a lease that is kept alive. Each renewal is a request of its own,
// which goes to another member if one does not answer; those of etcd's client
// go to one member until its connection ends, which takes longer than a lease
// lasts if that member hangs.
type session struct {
	lease clientv3.LeaseID
	// ctx ends, and done is closed after it, when the lease is lost, or may be,
	// or is not kept alive any more.
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
}

// newSession grants a lease and keeps it alive until the store is closed or
// the session orphaned. note, unless nil, is called with the lease before it
// is used; the lease is kept alive meanwhile, however slow the disk is.
func (s *Store) newSession(ctx context.Context, note func(clientv3.LeaseID)) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	granted := time.Now()
	lease, err := s.etcd().Grant(ctx, int64(s.leaseTTL()/time.Second))
	if err != nil {
		s.suspect(err)
		return nil, explain(err)
	}
	session := &session{lease: lease.ID, done: make(chan struct{})}
	session.ctx, session.cancel = context.WithCancel(s.ctx)
	s.work.Go(func() {
		defer close(session.done)
		defer session.cancel()
		s.keepAlive(session.ctx, session.lease, granted)
	})
	if note != nil {
		note(lease.ID)
	}
	return session, nil
}

// leaseTTL is LeaseTTL in whole seconds.
func (s *Store) leaseTTL() time.Duration { return max(s.LeaseTTL.Truncate(time.Second), time.Second) }

// keepAlive renews a lease, which was granted or renewed at a time, until it
// is lost or the context ends. It returns no later than the lease ends.
func (s *Store) keepAlive(ctx context.Context, lease clientv3.LeaseID, renewed time.Time) {
	ttl := s.leaseTTL()
	bounds, adaptive := s.timeoutBounds(), &s.timeouts.renewal
	for wait := ttl / 5; backoff.Sleep(ctx, wait) == nil; {
		// A slow etcd needs more time, another member less.
		began := time.Now()
		limit := min(adaptive.current(bounds), ttl/2, ttl-began.Sub(renewed))
		try, cancel := context.WithTimeout(ctx, limit)
		_, err := s.etcd().KeepAliveOnce(try, lease)
		late := try.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case err == nil:
			adaptive.observe(time.Since(began), bounds)
			renewed, wait = began, ttl/5
			continue
		case errors.Is(err, rpctypes.ErrLeaseNotFound), time.Since(renewed) >= ttl:
			return
		}
		if late {
			adaptive.exceeded(limit, bounds)
		}
		s.suspect(err)
		wait = min(ttl/50, ttl-time.Since(renewed))
	}
}

// orphan ends the session; the lease expires, or is revoked by the caller.
func (s *session) orphan() {
	s.cancel()
	<-s.done
}
