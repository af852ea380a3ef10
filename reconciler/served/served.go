// Package served holds the policies that this replica serves: the current
// verified state, and what each workload gets of it.
package served

import (
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Policies holds the state that is served. Its exported fields, and its
// observers, are set before the first call of Serve.
type Policies struct {
	Logger *slog.Logger

	// mu makes calls of Serve follow each other.
	mu        sync.Mutex
	observers []func(*Snapshot, []selection.Key)
	programs  *programs
	// current is nil before the first state. Its revision never decreases.
	current atomic.Pointer[Snapshot]
}

// New returns Policies without a state.
func New() *Policies {
	return &Policies{Logger: slog.New(slog.DiscardHandler), programs: newPrograms()}
}

// Observe calls f after each change of the state, one call at a time and in
// order, with the new snapshot and the selector keys whose policies differ
// from the snapshot before. Serve returns after f has.
func (p *Policies) Observe(f func(next *Snapshot, touched []selection.Key)) {
	p.observers = append(p.observers, f)
}

// Current is the snapshot served, or nil before the first state.
func (p *Policies) Current() *Snapshot { return p.current.Load() }

// Serve makes a verified state the current one. A state older than the
// current one is logged and ignored: clients never see a revision decrease.
func (p *Policies) Serve(state *reconciler.State) {
	if state == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	from, index := schema.NewSet(), new(selection.Index)
	if before := p.current.Load(); before != nil {
		if state.Revision.Before(before.State.Revision) {
			p.Logger.Error("ignoring an older state than the one served", "served", before.State.Revision.String(), "ignored", state.Revision.String())
			return
		}
		from, index = before.State.Set, before.index
	}
	index, touched := index.Apply(schema.Diff(from, state.Set))
	next := &Snapshot{State: state, index: index, programs: p.programs, selections: map[Subject]func() Selection{}}
	p.current.Store(next)
	for _, observe := range p.observers {
		observe(next, touched)
	}
}
