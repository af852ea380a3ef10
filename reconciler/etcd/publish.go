package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
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
	stop := context.AfterFunc(t.session.Ctx(), cancel)
	defer stop()
	s := t.store
	s.mu.Lock()
	s.hint = publication.Set
	s.mu.Unlock()
	state, err := t.publish(ctx, publication)
	if err != nil {
		t.unmark()
		if t.session.Ctx().Err() != nil {
			err = reconciler.ErrDeposed
		}
		return nil, fmt.Errorf("publishing commit %.12s: %w", publication.Commit, err)
	}
	return state, nil
}

func (t *Term) publish(ctx context.Context, publication reconciler.Publication) (*reconciler.State, error) {
	if err := t.ensureEpoch(ctx); err != nil {
		return nil, err
	}
	var last error
	for range t.store.PublishTries {
		if err := t.catchUp(ctx); err != nil {
			return nil, err
		}
		state, err := t.attempt(ctx, publication)
		switch {
		case err == nil && state != nil:
			return state, nil
		case err == nil:
			last = errors.New("etcd held something else than was written")
			// The history got its entry together with the head.
			publication.Entry = nil
		case errors.Is(err, errMoved):
			last = err
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w, %d times in a row: something else writes to the keys under %s", last, t.store.PublishTries, t.store.Prefix)
}

// attempt writes the differences and looks at what became of them. Without
// an error and without a state, a stray hand got in between.
func (t *Term) attempt(ctx context.Context, publication reconciler.Publication) (*reconciler.State, error) {
	s := t.store
	s.mu.Lock()
	p, err := t.plan(publication)
	done := s.state
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if p.nothing {
		if publication.Entry != nil {
			return done, t.record(ctx, *publication.Entry)
		}
		return done, nil
	}
	var revision int64
	t.marked = t.marked || len(p.transactions) > 1
	for i, ops := range p.transactions {
		if revision, err = t.write(ctx, []clientv3.Cmp{p.unmoved}, ops...); err != nil {
			return nil, err
		}
		if s.afterTransaction != nil {
			if err := s.afterTransaction(i + 1); err != nil {
				return nil, err
			}
		}
	}
	t.marked = false
	limit, cancel := context.WithTimeout(ctx, 2*s.RequestTimeout)
	defer cancel()
	if err := s.waitRevision(limit, revision); err != nil {
		t.doubtful = true
		return nil, fmt.Errorf("written, and not confirmed: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	if state == nil || state.Revision.Epoch != s.epoch || state.Revision.Number < revision || len(schema.Diff(state.Set, publication.Set)) > 0 {
		return nil, nil
	}
	return state, nil
}

// unmark takes back the mark of a publication that did not come to its end.
func (t *Term) unmark() {
	if !t.marked && !t.doubtful {
		return
	}
	ctx, cancel := context.WithTimeout(t.store.ctx, time.Second)
	defer cancel()
	// Else it goes with the lease, and holds nothing back for longer than the grace.
	_, err := t.write(ctx, nil, clientv3.OpDelete(t.store.keys.publishing()))
	t.marked = err != nil
}

// Record adds to the history without publishing.
func (t *Term) Record(ctx context.Context, entry api.HistoryEntry) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if err := t.catchUp(ctx); err != nil {
		return fmt.Errorf("adding to the history: %w", err)
	}
	return t.record(ctx, entry)
}

func (t *Term) record(ctx context.Context, entry api.HistoryEntry) error {
	t.store.mu.Lock()
	ops := t.store.mirror.historyOps(&entry)
	unmark := t.store.mirror.publishing != 0
	t.store.mu.Unlock()
	if unmark {
		ops = append(ops, clientv3.OpDelete(t.store.keys.publishing()))
	}
	if len(ops) == 0 {
		return nil
	}
	revision, err := t.write(ctx, nil, ops...)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, t.store.RequestTimeout)
		defer cancel()
		err = t.store.waitRevision(ctx, revision)
	}
	if err != nil {
		return fmt.Errorf("adding to the history: %w", err)
	}
	return nil
}

// Report stores the leader's findings where followers read them.
func (t *Term) Report(ctx context.Context, findings *reconciler.LeaderReport) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if _, err := t.write(ctx, nil, clientv3.OpPut(t.store.keys.status(), encode(findings))); err != nil {
		return fmt.Errorf("storing the leader's findings: %w", err)
	}
	return nil
}
