package served

import (
	"fmt"
	"io"
	"sync"

	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Subject is what a client asks for: all policies, or those of a workload.
type Subject struct {
	All      bool
	Workload selection.Workload
}

// Keys are the selector keys whose policies apply to the subject's workload.
// There are none for all policies.
func (s Subject) Keys() []selection.Key {
	if s.All {
		return nil
	}
	return s.Workload.Keys()
}

// Selection describes the policies of a subject.
type Selection struct {
	// Digest is that of the policies and of nothing else.
	Digest schema.Digest
	// Count is the number of policies, and Size the length of their JSON in bytes.
	Count, Size int
}

// Snapshot is a verified state with an index by selector. It is immutable,
// except for its cache of selections.
type Snapshot struct {
	State *reconciler.State

	index    *selection.Index
	programs *programs

	mu sync.Mutex
	// selections has at most maxCached entries: clients can invent workloads.
	selections map[Subject]func() Selection
}

const maxCached = 4096

// Entries are the subject's policies, by name.
func (s *Snapshot) Entries(subject Subject) []*schema.Entry {
	if subject.All {
		return s.State.Set.Entries()
	}
	return s.index.Select(subject.Workload)
}

// Selection describes the subject's policies. It is computed once for all
// clients of a workload, and of all those for which there is no policy.
func (s *Snapshot) Selection(subject Subject) Selection {
	if !subject.All {
		subject.Workload = s.index.Reduced(subject.Workload)
	}
	s.mu.Lock()
	compute, known := s.selections[subject]
	if !known {
		compute = sync.OnceValue(func() Selection { return s.compute(subject) })
		if len(s.selections) < maxCached {
			s.selections[subject] = compute
		}
	}
	s.mu.Unlock()
	return compute()
}

// Program returns the policies of a workload, compiled and encoded for filters, which must
// not be changed. The error says why filters cannot have them.
func (s *Snapshot) Program(subject Subject) ([]byte, error) {
	encoded, err := s.programs.of(s.programKey(subject), func() []*schema.Entry { return s.Entries(subject) })
	if err != nil {
		return nil, s.refused(subject, err)
	}
	return encoded, nil
}

// Refusal returns why Program has refused the policies of a workload, or "". It compiles
// nothing, and does not wait.
func (s *Snapshot) Refusal(subject Subject) string {
	if err := s.programs.refusal(s.programKey(subject)); err != nil {
		return s.refused(subject, err).Error()
	}
	return ""
}

func (s *Snapshot) programKey(subject Subject) programKey {
	return programKey{s.Selection(subject).Digest, subject.Workload.Waypoint}
}

func (s *Snapshot) refused(subject Subject, err error) error {
	return fmt.Errorf("the %d policies of %s cannot be served: %w: make them fewer or smaller",
		s.Selection(subject).Count, subject.Workload, err)
}

// compute is Selection without its cache.
func (s *Snapshot) compute(subject Subject) Selection {
	entries := s.Entries(subject)
	set := s.State.Set
	if !subject.All {
		set = schema.NewSet(entries...)
	}
	return Selection{Digest: set.Digest(), Count: len(entries), Size: listSize(entries)}
}

const listHead, listTail = `{"policies":[`, "]}\n"

func listSize(entries []*schema.Entry) int {
	size := len(listHead) + len(listTail) + max(0, len(entries)-1)
	for _, entry := range entries {
		size += len(entry.Canonical)
	}
	return size
}

// WriteJSON writes the subject's policies as a JSON object whose length is
// Selection.Size. It makes no copy of them, however many clients are answered
// at the same time.
func (s *Snapshot) WriteJSON(w io.Writer, subject Subject) error {
	if _, err := io.WriteString(w, listHead); err != nil {
		return err
	}
	for i, entry := range s.Entries(subject) {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return err
			}
		}
		if _, err := w.Write(entry.Canonical); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, listTail)
	return err
}
