package http

import (
	"sync"
	"sync/atomic"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler/served"
)

// hub holds the current snapshot and the clients that wait for another one.
//
// No client misses a change: subscribe and update take the same lock, so a
// client either subscribes before an update, which then wakes it, or after,
// and then gets that update's snapshot to compare with. No client is woken by
// a change that does not concern it: an update looks only at the topics of the
// selector keys whose policies changed.
type hub struct {
	mu sync.Mutex
	// current is nil before the first state. It is written with mu held.
	current atomic.Pointer[served.Snapshot]
	// topics has exactly the topics that have subscribers.
	topics map[served.Subject]*topic
	// byKey finds the topics of the workloads that a selector key matches.
	byKey map[selection.Key]map[*topic]struct{}
	// advanced, if not nil, is closed by the next update, whatever it changes.
	advanced chan struct{}
}

// topic is one subject and the clients that wait for a change of it.
type topic struct {
	subject     served.Subject
	subscribers int
	// changed is closed by the next update that changes the subject.
	changed chan struct{}
}

func newHub() *hub {
	return &hub{topics: map[served.Subject]*topic{}, byKey: map[selection.Key]map[*topic]struct{}{}}
}

// update makes a snapshot the current one, and wakes the clients whose
// policies it changes. Calls must follow each other.
func (h *hub) update(next *served.Snapshot, touched []selection.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current.Store(next)
	for _, key := range touched {
		for topic := range h.byKey[key] {
			h.wake(topic)
		}
	}
	if all := h.topics[served.Subject{All: true}]; all != nil && len(touched) > 0 {
		h.wake(all)
	}
	if h.advanced != nil {
		close(h.advanced)
		h.advanced = nil
	}
}

// wake removes the topic: its subscribers subscribe again.
func (h *hub) wake(t *topic) {
	close(t.changed)
	h.remove(t)
}

func (h *hub) remove(t *topic) {
	delete(h.topics, t.subject)
	for _, key := range t.subject.Keys() {
		delete(h.byKey[key], t)
		if len(h.byKey[key]) == 0 {
			delete(h.byKey, key)
		}
	}
}

// subscribe returns the current snapshot, which must exist, and the topic
// whose channel is closed when a later one differs for the subject. The caller
// must unsubscribe.
func (h *hub) subscribe(to served.Subject) (*served.Snapshot, *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[to]
	if t == nil {
		t = &topic{subject: to, changed: make(chan struct{})}
		h.topics[to] = t
		for _, key := range to.Keys() {
			if h.byKey[key] == nil {
				h.byKey[key] = map[*topic]struct{}{}
			}
			h.byKey[key][t] = struct{}{}
		}
	}
	t.subscribers++
	return h.current.Load(), t
}

func (h *hub) unsubscribe(t *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.subscribers--
	// A topic that was woken is removed already, and a new one may have its place.
	if t.subscribers == 0 && h.topics[t.subject] == t {
		h.remove(t)
	}
}

// next returns the current snapshot and a channel that is closed when there is
// another, whatever differs in it.
func (h *hub) next() (*served.Snapshot, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.advanced == nil {
		h.advanced = make(chan struct{})
	}
	return h.current.Load(), h.advanced
}
