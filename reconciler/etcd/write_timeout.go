package etcd

import (
	"sync"
	"time"
)

// writeTimeout bounds a write, adapted to how long writes take. It outlives a
// term: else each leader would have to learn again how slow etcd is, and could
// lose its term by that.
type writeTimeout struct {
	mu sync.Mutex
	// limit is 0 before the first write.
	limit time.Duration
}

// currentWriteTimeout bounds the next write. It starts at TryTimeout if another
// endpoint may answer sooner.
func (s *Store) currentWriteTimeout() time.Duration {
	s.writeTimeout.mu.Lock()
	defer s.writeTimeout.mu.Unlock()
	if s.writeTimeout.limit == 0 {
		s.writeTimeout.limit = s.RequestTimeout
		if s.several() {
			s.writeTimeout.limit = min(s.TryTimeout, s.RequestTimeout)
		}
	}
	return s.writeTimeout.limit
}

// observeWrite adapts the timeout to how long a write took that etcd answered.
// It goes back to TryTimeout only after a write that took less.
func (s *Store) observeWrite(took time.Duration) {
	s.writeTimeout.mu.Lock()
	defer s.writeTimeout.mu.Unlock()
	limit := s.TryTimeout
	if took >= s.TryTimeout {
		limit = max(s.writeTimeout.limit, 2*took)
	}
	s.writeTimeout.limit = min(limit, s.RequestTimeout)
}

// writeTimedOut doubles the timeout after a write that exceeded it.
func (s *Store) writeTimedOut(limit time.Duration) {
	s.writeTimeout.mu.Lock()
	defer s.writeTimeout.mu.Unlock()
	s.writeTimeout.limit = min(max(s.writeTimeout.limit, 2*limit), s.RequestTimeout)
}
