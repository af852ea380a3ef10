package main

import (
	"strings"
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

// sign tells the others that this VM lives and what it has in force, takes the lead if
// nobody has it, and follows the leader otherwise. Look reports that it is time to see
// which of the others live.
func (s *share) sign(now time.Time, look bool) {
	id, looked, full := s.poll.vm.id, look, false
	signed := s.change(func(r *group.Record) bool {
		if look && s.watch.Look(r, id) {
			s.unsettled = now.Add(unsettledTime)
		}
		look, full = false, false
		if !s.note(r) {
			// Nobody else may live long enough to remove them.
			r.Remove(func(m *group.Member) bool { return !s.watch.Lives(m) })
			if full = !s.note(r); full {
				return false
			}
		}
		leader := r.Member(r.Leader)
		if leader == nil || r.Leader != id && (!s.watch.Lives(leader) || r.Leader == s.leader && now.Sub(s.heardAt) > leaderTime) {
			r.Leader = id
		}
		if r.Leader == id {
			r.Remove(func(m *group.Member) bool { return s.watch.Misses(m.ID) >= missesUntilForgotten })
		}
		return true
	})
	if full && looked {
		if s.noRoom++; s.noRoom >= looksForRoom {
			s.failed("joining the others", errNoRoom)
		}
	}
	if !signed {
		return
	}
	s.noRoom = 0
	s.follow(now)
	if looked && s.leads && !s.gathering {
		s.help()
	}
}

// take puts the shared program in force and notes that. It returns false if that is
// not possible, or it is in force.
func (s *share) take() bool {
	p, tag := s.poll, s.record.Tag
	if tag == p.tag {
		return false
	}
	data, _, err := proxywasm.GetSharedData(s.name("program"))
	if err != nil {
		return false // The leader notices that this VM has not noted it.
	}
	shared, valid := group.ReadProgram(data)
	if !valid || shared.Tag != tag {
		return false
	}
	read, err := program.Read(shared.Encoded, p.workload())
	if err != nil {
		proxywasm.LogWarn("hfi: the policies in the shared data are invalid: " + err.Error())
		return false
	}
	p.put(answer{tag: shared.Tag, revision: shared.Revision, commit: shared.Commit, program: read})
	s.change(s.note)
	if leader := s.record.Member(s.record.Leader); leader != nil && leader.ID != p.vm.id {
		s.wake(leader)
	}
	return true
}

// wake calls woken in another VM.
func (s *share) wake(m *group.Member) { _ = proxywasm.EnqueueSharedQueue(m.Queue, []byte{1}) }

// wakeAll calls woken in all other VMs that live. It reports whether there are any.
func (s *share) wakeAll() (any bool) {
	for i := range s.record.Members {
		if m := &s.record.Members[i]; m.ID != s.poll.vm.id && s.watch.Lives(m) {
			s.wake(m)
			any = true
		}
	}
	return any
}

// publish tells the other VMs what the daemon has confirmed. If the response has a
// program, which is in force now, they put it in force too: awaited reports that.
func (s *share) publish(a *answer) (awaited bool) {
	p := s.poll
	if s.alone || !s.leads || !group.Shareable(p.tag) || !group.Shareable(p.revision) {
		return false
	}
	now := p.vm.now()
	if r, _, err := s.load(); err == nil && r.Leader != p.vm.id {
		s.record = r
		s.follow(now)
		return false
	}
	if a.program != nil {
		shared := group.Program{Tag: a.tag, Revision: a.revision, Commit: a.commit, Encoded: a.encoded}
		_, cas, _ := proxywasm.GetSharedData(s.name("program"))
		if err := proxywasm.SetSharedData(s.name("program"), shared.Encode(), cas); err != nil && err != types.ErrorStatusCasMismatch { //nolint:errorlint // as above
			s.failed("writing to the shared data", err)
			return false
		}
		s.renew = false
	}
	if !s.change(func(r *group.Record) bool {
		if r.Leader != p.vm.id || !s.note(r) {
			return false
		}
		r.Tag, r.Revision = p.tag, p.revision
		r.Confirmations++
		r.ConfirmedAt = now.UnixMilli()
		return true
	}) {
		return false
	}
	s.known, s.confirmations, s.heardAt = true, s.record.Confirmations, now
	return a.program != nil && s.wakeAll()
}

// report returns the value of the header that names the other VMs, or "". Conditional
// reports that the request has If-None-Match: those without a state have its policies.
func (s *share) report(now time.Time, conditional bool) string {
	if s.alone {
		return ""
	}
	if r, _, err := s.load(); err == nil {
		s.record = r
	}
	var list strings.Builder
	// First those that differ, because the header may have no room for all.
	for _, differ := range []bool{true, false} {
		for i := range s.record.Members {
			m := &s.record.Members[i]
			if m.ID == s.poll.vm.id || !m.Left && !s.watch.Lives(m) || differ != (m.Left || m.Tag == "" || m.Tag != s.poll.tag) {
				continue
			}
			if list.Len() > maxVMsHeader {
				return list.String()
			}
			if list.Len() > 0 {
				list.WriteByte(',')
			}
			list.WriteString(m.ID)
			switch {
			case m.Left:
				list.WriteString("=" + api.VMGone)
				continue
			case !differ && conditional:
			case isTag(m.Tag):
				list.WriteString("=" + m.Tag)
			default:
				list.WriteString("=" + api.VMWithout)
			}
			if differ {
				s.unsettled = now.Add(unsettledTime)
			}
		}
	}
	return list.String()
}

// isTag reports whether a text from the shared data is an ETag that the daemon can read
// in a list.
func isTag(text string) bool {
	last := len(text) - 1
	return last > 0 && text[0] == '"' && text[last] == '"' && strings.IndexByte(text[1:last], '"') < 0 && strings.IndexByte(text, ',') < 0
}

// help makes other VMs take up the leader's policies if they have not for a few looks.
func (s *share) help() {
	if s.poll.tag == "" || s.settled() {
		s.behind = 0
		return
	}
	if s.behind++; s.behind < missesUntilHelped {
		return
	}
	s.behind = 0
	data, _, err := proxywasm.GetSharedData(s.name("program"))
	if shared, valid := group.ReadProgram(data); err != nil || !valid || shared.Tag != s.poll.tag {
		// A former leader may have shared its policies late.
		s.renew = true
		return
	}
	s.wakeAll()
}
