package http

import (
	"sync"
	"sync/atomic"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// subject is what a client asks for: all policies, or those of a workload.
type subject struct {
	all      bool
	workload selection.Workload
}

// snapshot is a verified state, ready to be selected from. It is immutable
// but for its cache.
type snapshot struct {
	state *reconciler.State
	index *selection.Index

	mu sync.Mutex
	// summaries has at most maxSummaries, so that made-up workloads cost no memory.
	summaries map[subject]func() summary
}

const maxSummaries = 4096

// summary is what a client is told of its selection before it gets it.
type summary struct {
	tag string
	// count is the number of policies; size the length of the answer in bytes.
	count, size int
}

func (s *snapshot) entries(of subject) []*schema.Entry {
	if of.all {
		return s.state.Set.Entries()
	}
	return s.index.Select(of.workload)
}

// summary is made once for all clients of a workload.
func (s *snapshot) summary(of subject) summary {
	s.mu.Lock()
	make, known := s.summaries[of]
	if !known {
		make = sync.OnceValue(func() summary { return s.summarise(of) })
		if len(s.summaries) < maxSummaries {
			s.summaries[of] = make
		}
	}
	s.mu.Unlock()
	return make()
}

func (s *snapshot) summarise(of subject) summary {
	entries := s.entries(of)
	set := s.state.Set
	if !of.all {
		set = schema.NewSet(entries...)
	}
	return summary{tag: string(set.Digest()), count: len(entries), size: listSize(entries)}
}

// hub holds the present snapshot and those who wait for another one.
//
// Nobody misses a change: subscribe and update take the same lock, so a
// client either subscribes before an update, which then wakes it, or after,
// and then gets that update's snapshot to compare with. And nobody is woken
// for another's change: an update looks only at the topics below the selector
// keys that it touched.
type hub struct {
	// updating keeps updates in order; snapshots are built outside mu.
	updating sync.Mutex

	mu sync.Mutex
	// current is nil before the first state. It is written with mu held.
	current atomic.Pointer[snapshot]
	// topics has those with subscribers and no others.
	topics map[subject]*topic
	// byKey finds the workloads' topics that a selector key matches.
	byKey map[selection.Key]map[*topic]struct{}
	// advanced, if not nil, is closed by the next update, whatever it changes.
	advanced chan struct{}
}

// topic is one subject and the clients that wait for it.
type topic struct {
	subject     subject
	subscribers int
	// changed is closed by the next update that touches the subject.
	changed chan struct{}
}

func newHub() *hub {
	return &hub{topics: map[subject]*topic{}, byKey: map[selection.Key]map[*topic]struct{}{}}
}

// update makes a state the present one. It refuses one that is older, and
// then gives the revision that is present.
func (h *hub) update(state *reconciler.State) (reconciler.Revision, bool) {
	h.updating.Lock()
	defer h.updating.Unlock()
	from, index := schema.NewSet(), new(selection.Index)
	if before := h.current.Load(); before != nil {
		if state.Revision.Before(before.state.Revision) {
			return before.state.Revision, false
		}
		from, index = before.state.Set, before.index
	}
	index, touched := index.Apply(schema.Diff(from, state.Set))
	next := &snapshot{state: state, index: index, summaries: map[subject]func() summary{}}

	h.mu.Lock()
	defer h.mu.Unlock()
	h.current.Store(next)
	for _, key := range touched {
		for topic := range h.byKey[key] {
			h.wake(topic)
		}
	}
	if all := h.topics[subject{all: true}]; all != nil && len(touched) > 0 {
		h.wake(all)
	}
	if h.advanced != nil {
		close(h.advanced)
		h.advanced = nil
	}
	return state.Revision, true
}

// wake takes the topic off: its subscribers, once awake, subscribe anew.
func (h *hub) wake(t *topic) {
	close(t.changed)
	h.remove(t)
}

func (h *hub) remove(t *topic) {
	delete(h.topics, t.subject)
	for _, key := range t.keys() {
		delete(h.byKey[key], t)
		if len(h.byKey[key]) == 0 {
			delete(h.byKey, key)
		}
	}
}

func (t *topic) keys() []selection.Key {
	if t.subject.all {
		return nil
	}
	return t.subject.workload.Keys()
}

// subscribe gives the present snapshot, of which there must be one, and the
// topic whose channel is closed when a later one differs for the subject.
// The caller unsubscribes in any case.
func (h *hub) subscribe(to subject) (*snapshot, *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[to]
	if t == nil {
		t = &topic{subject: to, changed: make(chan struct{})}
		h.topics[to] = t
		for _, key := range t.keys() {
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
	// A topic that was woken is off already, and another may have its place.
	if t.subscribers == 0 && h.topics[t.subject] == t {
		h.remove(t)
	}
}

// next gives the present snapshot and a channel that is closed when there is
// another, whatever differs in it.
func (h *hub) next() (*snapshot, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.advanced == nil {
		h.advanced = make(chan struct{})
	}
	return h.current.Load(), h.advanced
}
