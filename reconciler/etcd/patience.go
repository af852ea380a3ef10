package etcd

import (
	"sync"
	"time"
)

// patience is how long a write may take. It outlives a term: else a leader
// would learn in every term anew how slow etcd is, and lose each by that.
type patience struct {
	mu sync.Mutex
	// limit is 0 before the first write.
	limit time.Duration
}

// writeLimit bounds the next write. If another endpoint may answer sooner, it
// begins with TryTimeout.
func (s *Store) writeLimit() time.Duration {
	s.patience.mu.Lock()
	defer s.patience.mu.Unlock()
	if s.patience.limit == 0 {
		s.patience.limit = s.RequestTimeout
		if s.several() {
			s.patience.limit = min(s.TryTimeout, s.RequestTimeout)
		}
	}
	return s.patience.limit
}

// writeTook notes how long a write took that etcd answered. Only after one
// within TryTimeout the next has no more than that.
func (s *Store) writeTook(took time.Duration) {
	s.patience.mu.Lock()
	defer s.patience.mu.Unlock()
	limit := s.TryTimeout
	if took >= s.TryTimeout {
		limit = max(s.patience.limit, 2*took)
	}
	s.patience.limit = min(limit, s.RequestTimeout)
}

// writeTimedOut notes that a write was given up after a limit.
func (s *Store) writeTimedOut(limit time.Duration) {
	s.patience.mu.Lock()
	defer s.patience.mu.Unlock()
	s.patience.limit = min(max(s.patience.limit, 2*limit), s.RequestTimeout)
}
