package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Publish makes etcd hold exactly the publication's set, whatever it held
// before, and returns the state that was verified at the head's own revision.
func (t *Term) Publish(ctx context.Context, publication reconciler.Publication) (*reconciler.State, error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(t.session.ctx, cancel)
	defer stop()
	t.store.step(publishing{set: publication.Set})
	state, err := t.publish(ctx, publication)
	if err != nil {
		t.removeMark()
		if t.session.ctx.Err() != nil {
			err = reconciler.ErrDeposed
		}
		return nil, fmt.Errorf("publishing commit %.12s: %w", publication.Commit, err)
	}
	return state, nil
}

// publish tries until etcd holds what it wrote. errHeadMoved and
// errOverwritten mean that another writer interfered.
func (t *Term) publish(ctx context.Context, publication reconciler.Publication) (*reconciler.State, error) {
	var last error
	retries, until := t.store.waits(), time.Now().Add(t.store.RequestTimeout)
	for tries := 0; tries < t.store.PublishTries; {
		state, err := t.attempt(ctx, publication)
		switch {
		case err == nil:
			return state, nil
		case errors.Is(err, errOverwritten):
			// The history already has the entry, which was written with the head.
			publication.Entry = nil
			tries++
		case errors.Is(err, errHeadMoved):
			tries++
		case errors.Is(err, rpctypes.ErrTooManyOps) && t.maxOps > minOps:
			t.maxOps = max(t.maxOps/2, minOps)
			t.store.logger.Warn("etcd allows fewer operations in a transaction than by default (--max-txn-ops); using fewer", "operations", t.maxOps)
		case transient(err) && time.Now().Before(until):
			// While etcd elects a leader, or one of its members hangs, a request
			// may be lost, and the next one not.
			if backoff.Sleep(ctx, retries.NextBackOff()) != nil {
				return nil, err
			}
		default:
			return nil, err
		}
		last = err
	}
	return nil, fmt.Errorf("%w, %d times in a row: something else writes to the keys under %s", last, t.store.PublishTries, t.store.Prefix)
}

var (
	// errHeadMoved: the head is not the one that a plan was made for.
	errHeadMoved = errors.New("the head has moved")
	// errOverwritten: at the head's revision etcd did not hold the set that was written.
	errOverwritten = errors.New("etcd held something else than was written")
)

// attempt writes the differences, and returns the state that the watch then
// verified.
func (t *Term) attempt(ctx context.Context, publication reconciler.Publication) (*reconciler.State, error) {
	s := t.store
	if err := t.catchUp(ctx); err != nil {
		return nil, err
	}
	if err := t.ensureEpoch(ctx); err != nil {
		return nil, err
	}
	if err := t.reserveHead(ctx); err != nil {
		return nil, err
	}
	var p *plan
	var planErr error
	var verifiedBefore *reconciler.State
	err := s.inspect(func(tracker *tracker) {
		p, planErr = tracker.plan(s.Clock(), publication, t.markOp(), t.maxOps)
		verifiedBefore = tracker.state
	})
	if err := errors.Join(err, planErr); err != nil {
		return nil, err
	}
	if s.afterPlan != nil {
		s.afterPlan()
	}
	if len(p.transactions) == 0 {
		if publication.Entry != nil {
			return verifiedBefore, t.record(ctx, *publication.Entry)
		}
		return verifiedBefore, nil
	}
	revision, err := t.commit(ctx, p)
	if err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, 2*s.RequestTimeout)
	defer cancel()
	newest, err := s.waitRevision(limit, revision)
	if err != nil {
		t.writes = writesUnknown
		return nil, fmt.Errorf("written, but not confirmed: %w", err)
	}
	state := newest.view.State
	if state == nil || state.Revision.Epoch != newest.epoch || state.Revision.Number < revision || len(schema.Diff(state.Set, publication.Set)) > 0 {
		return nil, errOverwritten
	}
	return state, nil
}

// reserveHead creates the head's key unless it exists, because a head contains
// the create revision of its key.
func (t *Term) reserveHead(ctx context.Context) error {
	s, present := t.store, true
	err := s.inspect(func(tracker *tracker) { present = tracker.cache == nil || tracker.cache.head.present })
	if err != nil || present {
		return err
	}
	// The mark says that a publication is under way: the placeholder is no drift.
	absent := clientv3.Compare(clientv3.ModRevision(s.keys.head()), "=", 0)
	t.writes = writesMarked
	if err := t.writeAndWait(ctx, []clientv3.Cmp{absent}, t.markOp(), clientv3.OpPut(s.keys.head(), headPlaceholder)); err != nil {
		return fmt.Errorf("reserving the head's key: %w", err)
	}
	return nil
}

// commit commits a plan's transactions, and returns the revision of the last.
func (t *Term) commit(ctx context.Context, p *plan) (revision int64, err error) {
	if len(p.transactions) > 1 {
		t.writes = writesMarked
	}
	for i, ops := range p.transactions {
		if revision, err = t.write(ctx, []clientv3.Cmp{p.headUnmoved}, ops...); err != nil {
			return 0, err
		}
		if hook := t.store.afterTransaction; hook != nil {
			if err := hook(i + 1); err != nil {
				return 0, err
			}
		}
	}
	t.writes = writesKnown
	return revision, nil
}

// removeMark deletes the publishing key after a publication that failed.
func (t *Term) removeMark() {
	if t.writes == writesKnown {
		return
	}
	ctx, cancel := context.WithTimeout(t.store.ctx, time.Second)
	defer cancel()
	// If it fails, the key goes with the lease, and hides drift for PublishGrace at most.
	_, err := t.write(ctx, nil, clientv3.OpDelete(t.store.keys.publishing()))
	if err == nil && t.writes == writesMarked {
		t.writes = writesKnown
	}
}

// Record adds an entry to the history without publishing.
func (t *Term) Record(ctx context.Context, entry api.HistoryEntry) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if err := t.catchUp(ctx); err != nil {
		return fmt.Errorf("adding to the history: %w", err)
	}
	return t.record(ctx, entry)
}

func (t *Term) record(ctx context.Context, entry api.HistoryEntry) error {
	var ops []clientv3.Op
	err := t.store.inspect(func(tracker *tracker) {
		ops = tracker.cache.historyOps(&entry)
		if tracker.cache.publishing != 0 {
			ops = append(ops, clientv3.OpDelete(t.store.keys.publishing()))
		}
	})
	if err == nil && len(ops) > 0 {
		err = t.writeAndWait(ctx, nil, ops...)
	}
	if err != nil {
		return fmt.Errorf("adding to the history: %w", err)
	}
	return nil
}

// Report stores the leader's report for its followers.
func (t *Term) Report(ctx context.Context, report *reconciler.LeaderReport) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	t.reports++
	record := statusRecord{Format: formatVersion, Term: t.leader.revision, Number: t.reports, LeaderReport: *report}
	if _, err := t.write(ctx, nil, clientv3.OpPut(t.store.keys.status(), encode(record))); err != nil {
		return fmt.Errorf("storing the leader's report: %w", err)
	}
	return nil
}
