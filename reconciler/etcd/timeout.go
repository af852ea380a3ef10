package etcd

import (
	"sync"
	"time"
)

// timeouts are those of the requests that another endpoint may answer sooner.
// They outlive terms and sessions: else each would have to learn again how slow
// etcd is, and could end by that.
type timeouts struct{ write, read, renewal, watch adaptiveTimeout }

// adaptiveTimeout bounds requests of one kind, adapted to how long they take.
type adaptiveTimeout struct {
	mu sync.Mutex
	// limit is 0 before the first request.
	limit time.Duration
}

// timeoutBounds are the bounds of adaptive timeouts, and what they start at.
type timeoutBounds struct{ first, least, most time.Duration }

// timeoutBounds start at TryTimeout if another endpoint may answer sooner.
func (s *Store) timeoutBounds() timeoutBounds {
	bounds := timeoutBounds{first: s.RequestTimeout, least: min(s.TryTimeout, s.RequestTimeout), most: s.RequestTimeout}
	if s.several() {
		bounds.first = bounds.least
	}
	return bounds
}

// current bounds the next request.
func (a *adaptiveTimeout) current(bounds timeoutBounds) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.limit == 0 {
		a.limit = bounds.first
	}
	return a.limit
}

// observe adapts the timeout to how long a request took that etcd answered. It
// goes back to the least only after one that took less.
func (a *adaptiveTimeout) observe(took time.Duration, bounds timeoutBounds) {
	a.mu.Lock()
	defer a.mu.Unlock()
	limit := bounds.least
	if took >= bounds.least {
		limit = max(a.limit, 2*took)
	}
	a.limit = min(limit, bounds.most)
}

// exceeded doubles the timeout after a request that exceeded it.
func (a *adaptiveTimeout) exceeded(limit time.Duration, bounds timeoutBounds) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit = min(max(a.limit, 2*limit), bounds.most)
}
