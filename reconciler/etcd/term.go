package etcd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/reconciler"
)

// Term is reconciler.Term on etcd: a lease, and a key under leader/ that
// lives as long as the lease does.
type Term struct {
	store   *Store
	session *session
	// leader is the leader's key and its create revision: the fence of all
	// writes. It is set once, before the first write.
	leader termKey

	// done is closed when the term has ended. It may end earlier in etcd: only
	// the fence decides whether a write succeeds.
	done     chan struct{}
	once     sync.Once
	triggers chan struct{}
	// writing is held by the writer, from reading the cache until the
	// write is confirmed, so that each number of the history is used once.
	writing sync.Mutex
	// reports counts the reports of this term. writing guards it.
	reports int64
	// maxOps is how many operations a transaction of a publication has at most. writing guards it.
	maxOps int
	// writes is what is known about this term's own writes. writing guards it.
	writes writeState
}

// writeState says what a term knows about its own writes.
type writeState int

const (
	// writesKnown: the outcome of every write is known, and etcd holds no
	// publishing key of this term.
	writesKnown writeState = iota
	// writesMarked: the outcome of every write is known, and etcd may hold the
	// publishing key of this term.
	writesMarked
	// writesUnknown: a write may or may not have succeeded, so nothing may be
	// concluded from the cache until it has caught up with a later write. etcd
	// may hold the publishing key.
	writesUnknown
)

// Campaign waits until this daemon leads, however long etcd is away.
func (s *Store) Campaign(ctx context.Context) (reconciler.Term, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(errClosed) })()
	for waits := s.waits(); ; {
		term, err := s.campaign(ctx)
		if err == nil {
			return term, nil
		}
		if ctx.Err() == nil {
			s.logger.Debug("campaigning for the leadership failed; trying again", "error", err)
		}
		if backoff.Sleep(ctx, waits.NextBackOff()) != nil {
			return nil, fmt.Errorf("campaigning for the leadership: %w", context.Cause(ctx))
		}
	}
}

func (s *Store) campaign(ctx context.Context) (*Term, error) {
	if _, err := s.waitClient(ctx); err != nil {
		return nil, err
	}
	session, err := s.newSession(ctx, s.recordLease)
	if err != nil {
		return nil, err
	}
	term := &Term{
		store: s, session: session, maxOps: maxOps,
		done: make(chan struct{}), triggers: make(chan struct{}, 1),
	}
	if err := term.elect(ctx); err != nil {
		session.orphan()
		s.revoke(session.lease)
		return nil, err
	}
	s.mu.Lock()
	s.term = term
	s.mu.Unlock()
	s.step(elected{term: term.leader})
	s.work.Go(func() {
		select {
		case <-session.done:
			term.end()
		case <-term.done:
			session.orphan()
		}
		// However the term ended, the next candidate need not wait for the lease to expire.
		s.revoke(session.lease)
	})
	if err := term.begin(ctx); err != nil {
		term.end()
		s.forget(term)
		return nil, err
	}
	s.work.Go(term.keepSigned)
	if s.Embedded != nil {
		s.work.Go(term.compact)
	}
	return term, nil
}

// recordLease writes a lease to the data folder before it is used, so that the
// next process can revoke it after a crash.
func (s *Store) recordLease(lease clientv3.LeaseID) {
	path := s.leaseFile()
	if path == "" {
		return
	}
	if err := datadir.WriteFile(path, fmt.Appendf(nil, "%x\n", int64(lease))); err != nil {
		// After a crash, the next leader has to wait until the lease expires.
		s.logger.Warn("recording the lease of a leadership in the data folder failed", "error", err)
	}
}

// begin shows that this leader is a replica, and begins an epoch if necessary.
// It tries until a request has had all the time that it may take.
func (t *Term) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*t.store.RequestTimeout)
	defer cancel()
	defer context.AfterFunc(t.session.ctx, cancel)()
	if _, err := t.store.waitRevision(ctx, t.leader.revision); err != nil {
		return err
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	record := encode(termRecord{Format: formatVersion, Leader: t.store.ID, Term: t.leader.revision})
	for waits := t.store.waits(); ; {
		// After this write the cache also shows what an earlier try has done.
		err := t.writeAndWait(ctx, nil, clientv3.OpPut(t.store.keys.term(), record, clientv3.WithLease(t.session.lease)))
		if err == nil {
			err = t.ensureEpoch(ctx)
		}
		if err == nil {
			return nil
		}
		if !transient(err) || backoff.Sleep(ctx, waits.NextBackOff()) != nil {
			return fmt.Errorf("beginning the term: %w", err)
		}
	}
}

// ensureEpoch begins another epoch if the one in force has ended.
func (t *Term) ensureEpoch(ctx context.Context) error {
	s, number, signer := t.store, int64(0), signer{}
	err := s.inspect(func(tracker *tracker) {
		if tracker.cache != nil && tracker.epoch.ended() {
			number, signer = tracker.epoch.next(tracker.cache), tracker.cache.signer
		}
	})
	if err != nil || number == 0 {
		return err
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id) // It never fails.
	epoch := reconciler.Epoch{Number: number, ID: hex.EncodeToString(id)}
	if err := t.writeAndWait(ctx, nil, clientv3.OpPut(s.keys.epoch(), signer.encodeEpoch(epoch)), clientv3.OpDelete(s.keys.epochFloor())); err != nil {
		return fmt.Errorf("beginning epoch %d: %w", epoch.Number, err)
	}
	s.logger.Info("began an epoch", "epoch", epoch.Number, "id", epoch.ID)
	return nil
}

// write commits one fenced transaction and returns its revision.
// reconciler.ErrDeposed means that another replica leads, errHeadMoved that one
// of the conditions does not hold; then nothing was written.
func (t *Term) write(ctx context.Context, conditions []clientv3.Cmp, ops ...clientv3.Op) (int64, error) {
	select {
	case <-t.done:
		return 0, reconciler.ErrDeposed
	default:
	}
	s := t.store
	bounds, adaptive := s.timeoutBounds(), &s.timeouts.write
	began, timeout := time.Now(), adaptive.current(bounds)
	var response *clientv3.TxnResponse
	exceeded, err := s.tries.make(ctx, timeout, func(ctx context.Context) (err error) {
		response, err = s.etcd().Txn(ctx).
			If(append([]clientv3.Cmp{fence(t.leader.key, t.leader.revision)}, conditions...)...).
			Then(ops...).
			Else(clientv3.OpGet(t.leader.key, clientv3.WithKeysOnly())).
			Commit()
		return err
	})
	if err != nil {
		t.writes = writesUnknown
		if exceeded {
			adaptive.exceeded(timeout, bounds)
		}
		s.suspect(err)
		return 0, explain(err)
	}
	adaptive.observe(time.Since(began), bounds)
	if response.Succeeded {
		return response.Header.Revision, nil
	}
	if kvs := response.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 && kvs[0].CreateRevision == t.leader.revision {
		// The cache that the conditions came from may lag behind.
		t.writes = writesUnknown
		return 0, errHeadMoved
	}
	t.end()
	return 0, reconciler.ErrDeposed
}

// writeAndWait commits one fenced transaction, and waits until the cache has it.
func (t *Term) writeAndWait(ctx context.Context, conditions []clientv3.Cmp, ops ...clientv3.Op) error {
	revision, err := t.write(ctx, conditions, ops...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*t.store.RequestTimeout)
	defer cancel()
	_, err = t.store.waitRevision(ctx, revision)
	return err
}

// catchUp makes the cache show whatever earlier writes have done, by waiting
// for a later write.
func (t *Term) catchUp(ctx context.Context) error {
	if t.writes != writesUnknown {
		return nil
	}
	if err := t.writeAndWait(ctx, nil, t.markOp()); err != nil {
		return err
	}
	t.writes = writesMarked
	return nil
}

// markOp writes the publishing key, which says that a publication is under
// way. It goes with the leader's lease.
func (t *Term) markOp() clientv3.Op {
	return clientv3.OpPut(t.store.keys.publishing(), t.store.ID, clientv3.WithLease(t.session.lease))
}

// Done is closed when the leadership has ended.
func (t *Term) Done() <-chan struct{} { return t.done }

// Triggers receives a value when a replica asked to read git.
func (t *Term) Triggers() <-chan struct{} { return t.triggers }

func (t *Term) trigger() {
	select {
	case t.triggers <- struct{}{}:
	default:
	}
}

func (t *Term) end() { t.once.Do(func() { close(t.done) }) }

// Resign ends the leadership at once: the next leader need not wait until the lease expires.
func (t *Term) Resign(ctx context.Context) error {
	t.end()
	t.session.orphan()
	ctx, cancel := context.WithTimeout(ctx, t.store.RequestTimeout)
	defer cancel()
	// The leader's key goes with the lease.
	_, err := t.store.etcd().Revoke(ctx, t.session.lease)
	t.store.forget(t)
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("resigning the leadership: %w", explain(err))
	}
	if path := t.store.leaseFile(); path != "" {
		_ = os.Remove(path) // If it stays, the next start makes one needless request.
	}
	return nil
}

// forget makes the store forget a term that has ended.
func (s *Store) forget(term *Term) {
	s.mu.Lock()
	current := s.term == term
	if current {
		s.term = nil
	}
	s.mu.Unlock()
	if current {
		s.step(resigned{})
	}
}

func (s *Store) revoke(lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	_, _ = s.etcd().Revoke(ctx, lease) // If it fails, the lease expires.
}
