package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/boifi/hfi/schema"
)

// load reads everything under the prefix: as it was at the head's revision, so
// that the head can be verified, or as it is now if etcd has compacted that
// revision away.
func (s *Store) load(ctx context.Context) error {
	seen, err := s.readMarkers(ctx, s.RequestTimeout)
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	at := seen.revision
	if seen.head != nil {
		at = seen.head.ModRevision
	}
	cache, err := s.read(ctx, at)
	if errors.Is(err, rpctypes.ErrCompacted) {
		if seen, err = s.readMarkers(ctx, s.RequestTimeout); err == nil {
			cache, err = s.read(ctx, seen.revision)
		}
	}
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	s.step(loaded{cache: cache, clusterID: seen.clusterID, revision: seen.revision})
	return nil
}

// readMarkers is a linearizable read of the keys that differ from one state of
// the store to another.
func (s *Store) readMarkers(ctx context.Context, limit time.Duration) (seen probeResult, err error) {
	for failed := false; ; {
		try, began := limit, time.Now()
		if s.several() {
			// The member that is asked may hang, and another one not.
			try = min(limit, s.timeouts.read.current(s.timeoutBounds()))
		}
		seen, err = s.readMarkersOnce(ctx, try)
		took := time.Since(began)
		if limit -= took; err == nil || !transient(err) || limit <= 0 || ctx.Err() != nil {
			return seen, err
		}
		// One that fails at once is tried a second time.
		if took < try {
			if failed {
				return seen, err
			}
			failed = true
		}
	}
}

func (s *Store) readMarkersOnce(ctx context.Context, limit time.Duration) (probeResult, error) {
	bounds, began := s.timeoutBounds(), time.Now()
	var response *clientv3.TxnResponse
	exceeded, err := s.tries.make(ctx, limit, func(ctx context.Context) (err error) {
		response, err = s.etcd().Txn(ctx).Then(clientv3.OpGet(s.keys.head()), clientv3.OpGet(s.keys.epoch())).Commit()
		return err
	})
	if err != nil {
		if exceeded {
			s.timeouts.read.exceeded(limit, bounds)
		}
		s.suspect(err)
		return probeResult{}, err
	}
	s.timeouts.read.observe(time.Since(began), bounds)
	seen := probeResult{revision: response.Header.Revision, clusterID: response.Header.ClusterId}
	if kvs := response.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		seen.head = kvs[0]
	}
	if kvs := response.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
		seen.epoch = kvs[0]
	}
	return seen, nil
}

// A page has as many keys as fit into pageBytes if they weigh what the keys of
// the page before weighed, and at most maxPage; the first one has firstPage.
const (
	firstPage = 64
	maxPage   = 2000
	pageBytes = 4 << 20
)

// read reads what etcd held at a revision.
func (s *Store) read(ctx context.Context, revision int64) (*cache, error) {
	c := newCache(s.keys, s.ID, s.StateKeys)
	c.revision = revision
	if state := s.View().State; state != nil {
		c.known = state.Set
	}
	policies, end := clientv3.GetPrefixRangeEnd(s.keys.policies()), clientv3.GetPrefixRangeEnd(string(s.keys))
	// Policies first: of the origins only those of policies are kept.
	for _, part := range [][2]string{{s.keys.policies(), policies}, {string(s.keys), s.keys.policies()}, {policies, end}} {
		if err := s.readRange(ctx, c, part[0], part[1]); err != nil {
			return nil, err
		}
		c.flush()
	}
	c.known = schema.NewSet()
	return c, nil
}

// readRange reads the keys of a range into a cache, as of its revision.
func (s *Store) readRange(ctx context.Context, c *cache, from, end string) error {
	for limit := int64(firstPage); ; {
		page, err := s.page(ctx, from, end, c.revision, limit)
		if status.Code(err) == codes.ResourceExhausted && limit > 1 {
			limit = max(limit/8, 1) // The values are larger than those before.
			continue
		}
		if err != nil {
			return err
		}
		bytes := int64(0)
		for _, kv := range page.Kvs {
			c.put(kv)
			bytes += int64(len(kv.Key) + len(kv.Value))
		}
		if !page.More || len(page.Kvs) == 0 {
			return nil
		}
		count := int64(len(page.Kvs))
		from = string(page.Kvs[count-1].Key) + "\x00"
		limit = min(max(pageBytes/max(bytes/count, 1), 1), maxPage)
	}
}

func (s *Store) page(ctx context.Context, from, end string, revision, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
	defer cancel()
	return s.etcd().Get(ctx, from, clientv3.WithRange(end), clientv3.WithRev(revision), clientv3.WithLimit(limit))
}

// probe reads the markers every ProbeInterval until the store is closed, for
// etcd's health, and for whether it still is the store that the watch follows.
func (s *Store) probe() {
	ticker := time.NewTicker(s.ProbeInterval)
	defer ticker.Stop()
	for {
		before, began := s.current().revision, s.Clock()
		seen, err := s.readMarkers(s.ctx, s.ProbeTimeout)
		switch {
		case s.ctx.Err() != nil:
			return
		case err != nil:
			s.unreachable(began, s.diagnose(s.connection.Load().config, err))
		default:
			alarms, err := s.readAlarms(s.ctx, s.ProbeTimeout)
			s.step(probed{result: seen, before: before, alarms: alarms, alarmsKnown: err == nil})
		}
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// announceEpochs writes announcements until the store is closed.
func (s *Store) announceEpochs() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case number := <-s.announcements:
			s.announceEpoch(number)
		}
	}
}

// announceEpoch tells the leader that this replica knows a later epoch than
// etcd holds, so that the leader begins one later still.
func (s *Store) announceEpoch(number int64) {
	ctx, cancel := context.WithTimeout(s.ctx, s.RequestTimeout)
	defer cancel()
	if _, err := s.etcd().Put(ctx, s.keys.epochFloor(), s.signer().encodeFloor(number)); err != nil {
		s.logger.Warn("announcing a later epoch to the leader failed", "epoch", number, "error", explain(err))
	}
}
