package etcd

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// hangingLease renews a lease until a time, and then answers no more.
type hangingLease struct {
	clientv3.Lease
	until   time.Time
	renewed time.Time
}

func (l *hangingLease) KeepAliveOnce(ctx context.Context, _ clientv3.LeaseID) (*clientv3.LeaseKeepAliveResponse, error) {
	if time.Now().After(l.until) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	l.renewed = time.Now()
	return &clientv3.LeaseKeepAliveResponse{}, nil
}

// A session whose lease cannot be renewed ends no later than the lease, also while a
// renewal waits for an answer, and no earlier than it must.
func TestASessionEndsNoLaterThanItsLease(t *testing.T) {
	for _, ttl := range []time.Duration{time.Second, 3 * time.Second, 5 * time.Second, time.Minute} {
		for _, lasts := range []time.Duration{0, 2 * ttl} {
			t.Run(ttl.String()+" after "+lasts.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					lease := &hangingLease{renewed: time.Now(), until: time.Now().Add(lasts)}
					s := New("/hfi/", "r", slog.New(slog.DiscardHandler))
					s.StateKeys = testKeys
					s.LeaseTTL = ttl
					s.connection.Store(&connection{client: &clientv3.Client{Lease: lease}})
					s.keepAlive(t.Context(), 1, lease.renewed)
					if took := time.Since(lease.renewed); took > ttl || took < ttl-ttl/10 {
						t.Errorf("it ended %s after the last renewal", took)
					}
				})
			})
		}
	}
}
