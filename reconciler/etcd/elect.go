package etcd

import (
	"context"
	"errors"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// cleanInterval is the interval between checks for foreign candidates while a
// replica waits to lead.
const cleanInterval = time.Second

// elect makes the term a candidate, and waits until that is the oldest. The
// store's own watch shows that, with all that keeps it going.
func (t *Term) elect(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.session.ctx, cancel)()
	s := t.store
	created, err := t.writeCandidate(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(cleanInterval)
	defer tick.Stop()
	for {
		newest := s.current()
		if err := s.deleteForeignCandidates(ctx, created.key); err != nil && ctx.Err() == nil {
			s.logger.Debug("deleting foreign candidates failed", "error", err)
		}
		leads, lost := false, false
		err := s.inspect(func(tracker *tracker) {
			if tracker.cache == nil || tracker.cache.revision < created.revision {
				return
			}
			leads, lost = tracker.cache.leads(created), tracker.cache.lost(created)
		})
		switch {
		case err != nil:
			return err
		case lost:
			return errors.New("the candidate's key was deleted")
		case leads:
			t.leader = created
			return nil
		}
		select {
		case <-newest.superseded:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writeCandidate writes the candidate's key.
func (t *Term) writeCandidate(ctx context.Context) (termKey, error) {
	s := t.store
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	key := candidateKey(s.keys.leader(), t.session.lease)
	response, err := s.etcd().Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, s.ID, clientv3.WithLease(t.session.lease))).Commit()
	switch {
	case err != nil:
		s.suspect(err)
		return termKey{}, explain(err)
	case !response.Succeeded:
		return termKey{}, errors.New("another writer has put a key in the place of the candidate's")
	}
	return termKey{key: key, revision: response.Header.Revision}, nil
}
