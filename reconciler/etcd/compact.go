package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compact compacts the embedded server from time to time while the term lasts.
func (t *Term) compact() {
	s := t.store
	compacted, last := int64(0), time.Now()
	t.every(min(s.CompactInterval, time.Second), func() {
		if err := t.moveHead(); err != nil {
			s.logger.Warn("moving the head to a later revision failed", "error", err)
		}
		to, current := s.compactable()
		if to <= compacted || time.Since(last) < s.CompactInterval && current-compacted < s.CompactRevisions {
			return
		}
		last = time.Now()
		ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
		_, err := s.etcd().Compact(ctx, to)
		cancel()
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			s.logger.Warn("compacting the embedded etcd failed", "error", explain(err))
			return
		}
		compacted = to
	})
}

// every calls do at an interval while the term lasts.
func (t *Term) every(interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-t.done:
			return
		case <-t.store.ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// compactable returns the revision up to which etcd may be compacted, which is
// the verified head's own, or 0, and the revision at which the cache is.
func (s *Store) compactable() (to, current int64) {
	newest := s.current()
	if !newest.view.HeadVerified {
		return 0, 0
	}
	return newest.view.State.Revision.Number, newest.revision
}

// moveHead writes an unchanged head again when many revisions have passed
// since, because the revisions after the head cannot be compacted: without
// commits the leader's reports would pile up. While there is drift a head
// written now would not be that of its set, so it stays.
func (t *Term) moveHead() error {
	s := t.store
	to, current := s.compactable()
	if to == 0 || current-to < 2*s.CompactRevisions {
		return nil
	}
	return t.rewriteHead()
}

// rewriteHead writes the head and the epoch again as they are, signed with the
// key that signs now. It does nothing while there is drift.
func (t *Term) rewriteHead() error {
	s := t.store
	t.writing.Lock()
	defer t.writing.Unlock()
	var unmoved clientv3.Cmp
	var ops []clientv3.Op
	err := s.inspect(func(tracker *tracker) {
		c := tracker.cache
		if !tracker.headVerified() || !tracker.epochStored() || tracker.drifted() {
			return
		}
		unmoved = clientv3.Compare(clientv3.ModRevision(s.keys.head()), "=", c.head.modRevision)
		ops = []clientv3.Op{c.headOp(c.head.value, c.head.epoch)}
		if c.epoch.signer != c.signer.keys.SignerID() {
			ops = append(ops, clientv3.OpPut(s.keys.epoch(), c.signer.encodeEpoch(c.epoch.value)))
		}
	})
	if err != nil || ops == nil {
		return err
	}
	_, err = t.write(s.ctx, []clientv3.Cmp{unmoved}, ops...)
	return err
}

// keepSigned signs the head and the epoch again when another state key signs,
// while the term lasts: then the key before may be removed.
func (t *Term) keepSigned() {
	s := t.store
	t.every(renewEvery, func() {
		due := false
		err := s.inspect(func(tracker *tracker) {
			c, signing := tracker.cache, s.StateKeys.SignerID()
			due = tracker.headVerified() && tracker.epochStored() && (c.head.signer != signing || c.epoch.signer != signing)
		})
		if err == nil && due {
			err = t.rewriteHead()
		}
		if err != nil && s.ctx.Err() == nil {
			s.logger.Warn("signing the head with the changed state key failed; trying again", "error", err)
		}
	})
}
