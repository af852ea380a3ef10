package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// compact lets the embedded server forget the past, again and again while the term lasts.
func (t *Term) compact() {
	s := t.store
	ticker := time.NewTicker(min(s.CompactInterval, time.Second))
	defer ticker.Stop()
	compacted, last := int64(0), time.Now()
	for {
		select {
		case <-t.done:
			return
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		if err := t.moveHead(); err != nil {
			s.logger.Warn("moving the head on", "error", err)
		}
		to, current := s.compactable()
		if to <= compacted || time.Since(last) < s.CompactInterval && current-compacted < s.CompactRevisions {
			continue
		}
		last = time.Now()
		ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
		_, err := s.client.Compact(ctx, to)
		cancel()
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			s.logger.Warn("compacting the embedded etcd", "error", explain(err))
			continue
		}
		compacted = to
	}
}

// compactable is the revision up to which the past may go, which is the
// verified head's own or 0, and the revision that the mirror stands at.
func (s *Store) compactable() (to, current int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirror
	if m == nil || s.state == nil || s.state.Revision.Epoch != s.epoch || m.head.modRevision != s.state.Revision.Number || s.wantsEpoch() {
		return 0, 0
	}
	return s.state.Revision.Number, m.revision
}

// moveHead writes an unchanged head again when many revisions have passed
// since, so that a branch without commits does not keep all that the leader
// has reported from being compacted. While there is drift a head written now
// would not verify, so it stays.
func (t *Term) moveHead() error {
	s := t.store
	to, current := s.compactable()
	if to == 0 || current-to < 2*s.CompactRevisions {
		return nil
	}
	t.writing.Lock()
	defer t.writing.Unlock()
	s.mu.Lock()
	m := s.mirror
	head := m.head
	drifted := m.drifted(s.state, s.epoch, s.renewed())
	s.mu.Unlock()
	if drifted {
		return nil
	}
	unmoved := clientv3.Compare(clientv3.ModRevision(s.keys.head()), "=", head.modRevision)
	_, err := t.write(s.ctx, []clientv3.Cmp{unmoved}, clientv3.OpPut(s.keys.head(), encodeHead(head.value)))
	return err
}
