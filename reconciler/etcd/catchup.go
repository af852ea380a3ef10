package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxCatchUp is how many revisions a watch may have to deliver at its start.
// etcd sends up to 1,000 of them at once, and its client joins them into one
// response: a gigabyte, if another writer wrote the largest values.
const maxCatchUp = 100

// catchUp reads etcd as it is now, page by page, if a watch would have to
// deliver too much. The state that is served was verified before: the cache
// stands at its head's revision or after it.
func (s *Store) catchUp(ctx context.Context) error {
	seen, err := s.readMarkers(ctx, s.RequestTimeout)
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	newest := s.current()
	if seen.revision-newest.revision <= maxCatchUp {
		return nil
	}
	if seen.head != nil && seen.head.ModRevision > newest.revision {
		if err := s.load(ctx); err != nil || seen.revision-s.current().revision <= maxCatchUp {
			return err
		}
	}
	cache, err := s.read(ctx, seen.revision)
	if err != nil {
		return fmt.Errorf("reading etcd: %w", explain(err))
	}
	s.step(loaded{cache: cache, clusterID: seen.clusterID, revision: seen.revision})
	return nil
}

// maxQueuedBytes bounds the responses of a watch that wait to be handled.
const maxQueuedBytes = 64 << 20

// errTooFarBehind means that a watch delivers more than can be handled.
var errTooFarBehind = errors.New("etcd changes faster than its changes can be followed")

// watchQueue takes a watch's responses at once: etcd's client would keep those
// that nobody takes, however many.
type watchQueue struct {
	responses chan clientv3.WatchResponse
	bytes     atomic.Int64
	// full is closed when there are more than the queue may hold. No more come then.
	full chan struct{}
}

// fill forwards a watch until it ends, which closes responses, or the queue is full.
func (q *watchQueue) fill(watch clientv3.WatchChan) {
	for response := range watch {
		size := responseBytes(response)
		if q.bytes.Add(size) > max(maxQueuedBytes, size) {
			close(q.full)
			return
		}
		select {
		case q.responses <- response:
		default:
			close(q.full)
			return
		}
	}
	close(q.responses)
}

func newWatchQueue() *watchQueue {
	return &watchQueue{responses: make(chan clientv3.WatchResponse, 10_000), full: make(chan struct{})}
}

// taken notes that a response was taken out of the queue.
func (q *watchQueue) taken(response clientv3.WatchResponse) { q.bytes.Add(-responseBytes(response)) }

func responseBytes(response clientv3.WatchResponse) int64 {
	size := 0
	for _, event := range response.Events {
		size += len(event.Kv.Key) + len(event.Kv.Value)
	}
	return int64(size)
}
