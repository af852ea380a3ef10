package etcd

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// load reads everything afresh: as it was at the head's revision, so that
// the head can be verified, or, where that has been compacted away, as it is now.
func (s *Store) load(ctx context.Context) error {
	before, err := s.look(ctx, s.RequestTimeout)
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	at := before.revision
	if before.head != nil {
		at = before.head.ModRevision
	}
	next, err := s.read(ctx, at)
	if errors.Is(err, rpctypes.ErrCompacted) {
		if before, err = s.look(ctx, s.RequestTimeout); err == nil {
			next, err = s.read(ctx, before.revision)
		}
	}
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	triggered := false
	if s.mirror != nil {
		triggered = next.trigger != s.mirror.trigger
		// What happened meanwhile was not seen.
		s.replicaLostAt = s.Clock()
	}
	if s.state != nil {
		next.share(s.state.Set)
	}
	s.mirror, s.clusterID, s.mustLoad = next, before.clusterID, false
	s.adoptEpoch()
	if known := s.epoch.Number > 0; known {
		sameLife := next.epoch.valid && next.epoch.value == s.epoch
		s.epochWanted = !sameLife || before.revision < s.seen
	}
	if !s.epochWanted {
		s.seen = before.revision
	}
	if next.head.present {
		s.takeUp()
	}
	s.noteChange(triggered)
	return nil
}

// sight is what one look at etcd shows.
type sight struct {
	revision    int64
	clusterID   uint64
	head, epoch *mvccpb.KeyValue
}

// look is a linearizable read of the keys that tell one state of the store from another.
func (s *Store) look(ctx context.Context, limit time.Duration) (sight, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	response, err := s.client.Txn(ctx).Then(clientv3.OpGet(s.keys.head()), clientv3.OpGet(s.keys.epoch())).Commit()
	if err != nil {
		return sight{}, err
	}
	seen := sight{revision: response.Header.Revision, clusterID: response.Header.ClusterId}
	if kvs := response.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		seen.head = kvs[0]
	}
	if kvs := response.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		seen.epoch = kvs[0]
	}
	return seen, nil
}

// Pages are sized by what the page before weighed, so that large values do
// not come by the thousand.
const (
	firstPage = 64
	maxPage   = 2000
	pageBytes = 4 << 20
)

// read makes a mirror of what etcd held at a revision.
func (s *Store) read(ctx context.Context, revision int64) (*mirror, error) {
	m := newMirror(s.keys)
	m.revision, m.self = revision, s.ID
	from, end := string(s.keys), clientv3.GetPrefixRangeEnd(string(s.keys))
	for limit := int64(firstPage); ; {
		page, err := s.page(ctx, from, end, revision, limit)
		if err != nil {
			return nil, err
		}
		bytes := int64(0)
		for _, kv := range page.Kvs {
			m.put(kv)
			bytes += int64(len(kv.Key) + len(kv.Value))
		}
		if !page.More || len(page.Kvs) == 0 {
			m.settle()
			return m, nil
		}
		count := int64(len(page.Kvs))
		from = string(page.Kvs[count-1].Key) + "\x00"
		limit = min(max(pageBytes/max(bytes/count, 1), 1), maxPage)
	}
}

func (s *Store) page(ctx context.Context, from, end string, revision, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	return s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(limit))
}

// probe looks at etcd again and again: for its health, and for whether it is
// still the store that the watch follows. A watch on a store that was wiped
// waits for its revision to come round, in silence.
func (s *Store) probe() {
	ticker := time.NewTicker(s.ProbeInterval)
	defer ticker.Stop()
	var suspicion suspicion
	for {
		before := s.standsAt()
		seen, err := s.look(s.ctx, s.ProbeTimeout)
		if s.ctx.Err() != nil {
			return
		}
		if err != nil {
			s.unhealthy(s.diagnose(s.config, err))
		} else {
			if s.lost(seen, before, &suspicion) {
				s.logger.Warn("etcd does not hold what was followed: reading it again")
				s.askReload()
				suspicion.since = time.Time{}
			}
			s.healthy()
		}
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// standsAt is the mirror's revision, or 0 if there is none.
func (s *Store) standsAt() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mirror == nil {
		return 0
	}
	return s.mirror.revision
}

// suspicion is since when looks have differed from a mirror that stands at a
// revision; zero if the last did not.
type suspicion struct {
	since    time.Time
	revision int64
}

// lost says whether a look shows another store than the one that is followed.
// Before is where the mirror stood before the look: etcd cannot since have
// gone back. Any other difference may be an event still on its way, or one
// that came after the look. So the mirror is suspected first, and is lost only
// if it stands still for as long as an answer of etcd may take.
func (s *Store) lost(seen sight, before int64, suspicion *suspicion) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirror
	if m == nil {
		return false
	}
	if seen.clusterID != s.clusterID || seen.revision < before {
		return true
	}
	modified := func(kv *mvccpb.KeyValue) int64 {
		if kv == nil {
			return 0
		}
		return kv.ModRevision
	}
	differs := modified(seen.head) != m.head.modRevision || modified(seen.epoch) != m.epoch.modRevision
	switch {
	case !differs:
		suspicion.since = time.Time{}
	case suspicion.since.IsZero() || suspicion.revision != m.revision:
		suspicion.since, suspicion.revision = time.Now(), m.revision
	default:
		return time.Since(suspicion.since) >= s.ProbeTimeout
	}
	return false
}

func (s *Store) askReload() {
	s.mu.Lock()
	s.mustLoad = true
	s.mu.Unlock()
	select {
	case s.reload <- struct{}{}:
	default:
	}
}

func (s *Store) healthy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.Clock()
	news := !s.health.Healthy
	s.health.Healthy, s.health.Error, s.health.LastSeenAt = true, "", &now
	if news {
		s.signal()
	}
}

func (s *Store) unhealthy(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Embedded != nil && s.Embedded.trap != nil && s.Embedded.Err() != nil {
		err = fmt.Errorf("%w; restart hfid once that is mended", s.Embedded.Err())
	}
	news := s.health.Healthy || s.health.Error != err.Error()
	s.health.Healthy, s.health.Error = false, err.Error()
	if news {
		s.signal()
	}
}

// raiseFloor tells the leader that this replica has known a later epoch than
// etcd holds, so that the next one is later still.
func (s *Store) raiseFloor(number int64) {
	ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
	defer cancel()
	if _, err := s.client.Put(ctx, s.keys.epochFloor(), strconv.FormatInt(number, 10)); err != nil {
		s.logger.Warn("telling the leader of a later epoch", "error", explain(err))
	}
}
