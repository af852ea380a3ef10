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
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/boifi/hfi/reconciler"
)

// Term is reconciler.Term on etcd: a lease, and a key under leader/ that
// lives as long as the lease does.
type Term struct {
	store    *Store
	session  *concurrency.Session
	election *concurrency.Election
	// key and revision are the leader's key and its create revision: the fence.
	key      string
	revision int64

	done     chan struct{}
	once     sync.Once
	triggers chan struct{}
	// writing is held by whoever writes, so that numbers in the history are given once.
	writing sync.Mutex
	// doubtful says that a write may or may not have happened, and the
	// mirror must catch up before anything is concluded from it.
	doubtful bool
	// marked says that etcd may hold the mark of a publication of ours.
	marked bool
}

// Campaign waits until this daemon leads, however long etcd is away.
func (s *Store) Campaign(ctx context.Context) (reconciler.Term, error) {
	for wait := time.Duration(0); ; {
		term, err := s.campaign(ctx)
		if err == nil {
			return term, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("campaigning: %w", ctx.Err())
		}
		if s.ctx.Err() != nil {
			return nil, errors.New("campaigning: the store is closed")
		}
		s.logger.Debug("campaigning", "error", err)
		wait = min(max(2*wait, 50*time.Millisecond), 2*time.Second)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
}

func (s *Store) campaign(ctx context.Context) (_ *Term, err error) {
	client, err := s.waitClient(ctx)
	if err != nil {
		return nil, err
	}
	ttl := max(int64(s.LeaseTTL/time.Second), 1)
	limit, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	lease, err := client.Grant(limit, ttl)
	cancel()
	if err != nil {
		return nil, explain(err)
	}
	defer func() {
		if err != nil {
			s.revoke(lease.ID)
		}
	}()
	// Noted before the lease is used, so that no candidature outlives its process unknown.
	if path := s.leaseFile(); path != "" {
		if err := writeAtomically(path, fmt.Sprintf("%x\n", int64(lease.ID))); err != nil {
			// All that is lost is time: after a crash, this lease's.
			s.logger.Warn("the lease of a leadership cannot be noted in the data folder", "error", err)
		}
	}
	session, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID), concurrency.WithTTL(int(ttl)), concurrency.WithContext(s.ctx))
	if err != nil {
		return nil, explain(err)
	}
	term := &Term{
		store: s, session: session, election: concurrency.NewElection(session, s.keys.leader()),
		done: make(chan struct{}), triggers: make(chan struct{}, 1),
	}
	if err := term.elect(ctx); err != nil {
		session.Orphan()
		return nil, err
	}
	s.mu.Lock()
	s.term = term
	s.mu.Unlock()
	s.work.Go(func() {
		select {
		case <-session.Done():
			term.end()
		case <-term.done:
			session.Orphan()
		}
		// Whatever ended the term, the next candidate need not wait for the lease.
		s.revoke(lease.ID)
	})
	if err := term.begin(ctx); err != nil {
		term.end()
		return nil, err
	}
	if s.Embedded != nil {
		s.work.Go(term.compact)
	}
	return term, nil
}

// elect waits until the term's candidature is the oldest.
func (t *Term) elect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(t.session.Ctx(), cancel)
	defer stop()
	if err := t.clearStrays(ctx); err != nil {
		return err
	}
	if err := t.election.Campaign(ctx, t.store.ID); err != nil {
		return explain(err)
	}
	t.key, t.revision = t.election.Key(), t.election.Rev()
	return nil
}

// clearStrays deletes keys under leader/ that hang on no lease. No candidate
// writes such a key, and it would never go away: everyone would wait for it.
func (t *Term) clearStrays(ctx context.Context) error {
	s := t.store
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	candidates, err := s.client.Get(ctx, s.keys.leader()+"/", clientv3.WithPrefix())
	if err != nil {
		return explain(err)
	}
	for _, kv := range candidates.Kvs {
		if kv.Lease != 0 {
			continue
		}
		s.logger.Warn("deleting a stranger's key, which no leader could be elected past", "key", string(kv.Key))
		_, err := s.client.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
			Then(clientv3.OpDelete(string(kv.Key))).Commit()
		if err != nil {
			return explain(err)
		}
	}
	return nil
}

// begin waits for the mirror to have seen the election, and begins an epoch if need be.
func (t *Term) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*t.store.RequestTimeout)
	defer cancel()
	if err := t.store.waitRevision(ctx, t.revision); err != nil {
		return err
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.ensureEpoch(ctx)
}

// ensureEpoch begins another epoch where the store's data are not of the one known.
func (t *Term) ensureEpoch(ctx context.Context) error {
	s := t.store
	s.mu.Lock()
	wanted := s.mirror != nil && s.wantsEpoch()
	number := s.epoch.Number
	if s.mirror != nil {
		number = max(number, s.mirror.floor)
		if s.mirror.epoch.valid {
			number = max(number, s.mirror.epoch.value.Number)
		}
	}
	s.mu.Unlock()
	if !wanted {
		return nil
	}
	id := make([]byte, 4)
	_, _ = rand.Read(id) // It never fails.
	epoch := reconciler.Epoch{Number: number + 1, ID: hex.EncodeToString(id)}
	revision, err := t.write(ctx, nil, clientv3.OpPut(s.keys.epoch(), encode(epoch)), clientv3.OpDelete(s.keys.epochFloor()))
	if err != nil {
		return fmt.Errorf("beginning epoch %d: %w", epoch.Number, err)
	}
	s.logger.Info("began an epoch", "epoch", epoch.Number, "id", epoch.ID)
	return s.waitRevision(ctx, revision)
}

// errMoved says that a condition besides the fence did not hold.
var errMoved = errors.New("the head has moved")

// write commits one fenced transaction and gives its revision.
func (t *Term) write(ctx context.Context, conditions []clientv3.Cmp, ops ...clientv3.Op) (int64, error) {
	select {
	case <-t.done:
		return 0, reconciler.ErrDeposed
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, t.store.RequestTimeout)
	defer cancel()
	response, err := t.store.client.Txn(ctx).
		If(append([]clientv3.Cmp{fence(t.key, t.revision)}, conditions...)...).
		Then(ops...).
		Else(clientv3.OpGet(t.key, clientv3.WithKeysOnly())).
		Commit()
	if err != nil {
		t.doubtful = true
		return 0, explain(err)
	}
	if response.Succeeded {
		return response.Header.Revision, nil
	}
	if kvs := response.Responses[0].GetResponseRange().Kvs; len(kvs) == 1 && kvs[0].CreateRevision == t.revision {
		t.doubtful = true
		return 0, errMoved
	}
	t.end()
	return 0, reconciler.ErrDeposed
}

// catchUp makes sure that the mirror shows whatever earlier writes have done.
func (t *Term) catchUp(ctx context.Context) error {
	if !t.doubtful {
		return nil
	}
	t.marked = true
	revision, err := t.write(ctx, nil, t.markOp())
	if err != nil {
		return err
	}
	if err := t.store.waitRevision(ctx, revision); err != nil {
		return err
	}
	t.doubtful = false
	return nil
}

// markOp marks that a publication is under way, for as long as the leader lives.
func (t *Term) markOp() clientv3.Op {
	return clientv3.OpPut(t.store.keys.publishing(), t.store.ID, clientv3.WithLease(t.session.Lease()))
}

// waitRevision waits until the mirror stands at a revision or after it.
func (s *Store) waitRevision(ctx context.Context, revision int64) error {
	for {
		s.mu.Lock()
		reached := s.mirror != nil && s.mirror.revision >= revision
		progress := s.progress
		s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-progress:
		case <-s.ctx.Done():
			return errors.New("the store is closed")
		case <-ctx.Done():
			return fmt.Errorf("waiting for etcd to tell of revision %d: %w", revision, ctx.Err())
		}
	}
}

// Done is closed when the leadership has ended.
func (t *Term) Done() <-chan struct{} { return t.done }

// Triggers receives a value when a replica asked to look at git.
func (t *Term) Triggers() <-chan struct{} { return t.triggers }

func (t *Term) trigger() {
	select {
	case t.triggers <- struct{}{}:
	default:
	}
}

func (t *Term) end() { t.once.Do(func() { close(t.done) }) }

// Resign ends the leadership at once. The next leader need not wait for the lease.
func (t *Term) Resign(ctx context.Context) error {
	t.end()
	t.session.Orphan()
	ctx, cancel := context.WithTimeout(ctx, t.store.RequestTimeout)
	defer cancel()
	// With the lease goes the leader's key.
	_, err := t.store.client.Revoke(ctx, t.session.Lease())
	t.store.mu.Lock()
	if t.store.term == t {
		t.store.term = nil
	}
	t.store.mu.Unlock()
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("giving up the leadership: %w", explain(err))
	}
	if path := t.store.leaseFile(); path != "" {
		_ = os.Remove(path) // Left behind, it only costs the next start a request.
	}
	return nil
}

func (s *Store) revoke(lease clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(s.ctx, time.Second)
	defer cancel()
	_, _ = s.client.Revoke(ctx, lease) // Else it runs out by itself.
}
