package main

import (
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// follow acts on the record.
func (s *share) follow(now time.Time) {
	p, id := s.poll, s.poll.vm.id
	if s.record.Leader != s.leader {
		s.leader, s.heardAt = s.record.Leader, now
	}
	if s.leader != id {
		s.leads, s.gathering = false, false
	}
	if s.leads {
		return
	}
	switch {
	case s.record.Tag == "":
	case !s.known && s.age(now) > recentTime && !s.watch.Beats(s.record.Leader):
		// Nobody may have asked for long, and the policies may not exist any more.
	case !s.known || s.record.Confirmations != s.confirmations:
		age := time.Duration(0)
		if !s.known {
			age = s.age(now)
		}
		s.known, s.confirmations, s.heardAt = true, s.record.Confirmations, now
		s.fresh = age < p.source.StaleAfter
		if s.fresh && (s.take() || p.tag == s.record.Tag) {
			p.confirmed(now.Add(-age))
			if p.tag == s.record.Tag { // Of the same policies there may be a later revision.
				p.revision = s.record.Revision
			}
		}
	case s.fresh && !p.stale:
		s.take()
	}
	if s.leader == id {
		proxywasm.LogInfo("hfi: asking the control plane for all VMs of this Envoy, vm=" + id)
		s.leads, s.behind, s.unsettled = true, 0, now.Add(unsettledTime)
		p.next = now
		if p.revision == "" {
			p.revision = s.record.Revision
		}
	}
}

// age is how long ago the daemon confirmed the shared policies. It is at most StaleAfter:
// also if the time in the record is in the future, because the clock has been set.
func (s *share) age(now time.Time) time.Duration {
	most := s.poll.source.StaleAfter
	age := now.UnixMilli() - s.record.ConfirmedAt
	if age < -maxClockStep.Milliseconds() || age > most.Milliseconds() {
		return most
	}
	return time.Duration(max(age, 0)) * time.Millisecond
}

// note sets this VM's entry in the record. It returns false if there is no room for it.
func (s *share) note(r *group.Record) bool {
	me := r.Join(s.poll.vm.id)
	if me == nil {
		return false
	}
	me.Queue, me.Left, me.Tag = s.queue, false, s.poll.tag
	me.Beat++
	return true
}

// woken handles notes of other VMs: there are new policies, another VM has put them in
// force, or the leader has left.
func (s *share) woken() {
	read := 0
	for read < maxNotes {
		if _, err := proxywasm.DequeueSharedQueue(s.queue); err != nil {
			break
		}
		read++
	}
	// Envoy calls for each note. One call has handled all notes that were there.
	if read == 0 {
		return
	}
	now := s.poll.vm.now()
	if s.alone {
		return
	}
	if !s.leads {
		s.sign(now, false)
		return
	}
	r, _, err := s.load()
	if err != nil {
		return
	}
	s.record = r
	s.follow(now)
	if s.leads && s.gathering && !s.poll.asking && s.settled() {
		s.gathering = false
		s.poll.scheduleNext(false)
	}
}

// settled reports whether all VMs that live have the leader's policies in force.
func (s *share) settled() bool {
	for i := range s.record.Members {
		if m := &s.record.Members[i]; m.ID != s.poll.vm.id && s.watch.Lives(m) && m.Tag != s.poll.tag {
			return false
		}
	}
	return true
}
