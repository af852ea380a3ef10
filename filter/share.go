package main

import (
	"errors"
	"time"

	"github.com/boifi/hfi/filter/group"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/types"
)

const (
	// signPeriod is the longest time between two signs of life of a VM, and half of
	// it the shortest. Another VM leads a few of them after the leader's last one.
	signPeriod = 2 * time.Second
	// gatherLimit bounds how long the leader waits until all VMs have new policies in
	// force, before it reports that.
	gatherLimit = time.Second
	// While the VMs in the group change, and for unsettledTime after that, the leader
	// asks the daemon to hold its requests for unsettledWait at most, so that it
	// reports them soon.
	unsettledTime, unsettledWait = 5 * time.Second, time.Second
	// creationPause separates the creation of the shared record from the first change
	// of it: several VMs may create it at once.
	creationPause = 20 * time.Millisecond
	// missesUntilForgotten is how many signs ago a member's last one was when the
	// leader removes it. Until then one that has left is reported.
	missesUntilForgotten = 30
	// missesUntilHelped is for how many signs a member may have other policies in force
	// than the leader before the leader looks after the shared ones.
	missesUntilHelped = 3
	// looksForRoom is how many looks at a record without room a VM takes before it asks
	// by itself. After them it knows which of the members are dead.
	looksForRoom = 4
	// minSharedStale is the shortest stale_after with which a VM joins others: it sees
	// confirmations by the daemon only when it signs.
	minSharedStale = 5 * signPeriod
	// leaderTime is how long a VM may lead without a confirmation by the daemon before
	// another one tries.
	leaderTime = maxWait + responseTimeout + maxBehind
	// recentTime is how old a confirmation may be for a VM that joins while it does not
	// know whether the leader lives: one that lives is confirmed as often.
	recentTime = maxWait + responseTimeout
	// maxClockStep is how far in the future a confirmation may be: clocks are adjusted.
	maxClockStep = 5 * time.Second
	// maxChanges bounds the attempts to change the record. Each one fails only if
	// another VM's succeeds.
	maxChanges = 2 * group.MaxMembers
	// maxNotes bounds the notes that are read at once.
	maxNotes = 1000
	// maxVMsHeader bounds the header with the VMs, in bytes.
	maxVMsHeader = 8 << 10
)

// A request names all other members: this compiles only if the limits agree.
var _ [0]struct{} = [group.MaxMembers - 1 - api.MaxVMs]struct{}{}

// share is a poller's part in a group: the VMs of this Envoy with the same source. One
// of them leads: only its poller asks the daemon. The group's record and the program
// that it got are in Envoy's shared data, and each VM has a queue, which wakes it.
type share struct {
	poll *poller
	// alone reports that there is no group: the poller asks for itself.
	alone bool
	// joined reports that queue is valid.
	joined bool
	queue  uint32
	// leads reports that this VM is the leader, as far as it knows.
	leads bool
	// record is the group's, as last seen, and watch what this VM has seen of the others.
	record group.Record
	watch  group.Watch
	// next is the time of the next sign of life.
	next time.Time
	// confirmations is the last number of confirmations seen. It is valid if known is true.
	confirmations uint32
	known         bool
	// fresh reports that the last confirmation was not too old when it was seen.
	fresh bool
	// heardAt is when the last confirmation was seen, or another leader.
	heardAt time.Time
	leader  string
	// unsettled is until when requests are short.
	unsettled time.Time
	// gathering reports that the next request waits until all VMs have the policies in force.
	gathering bool
	// behind counts this VM's looks, as the leader, at which some other VM did not have
	// its policies in force, in a row. If renew is true, the policies are to be shared again.
	behind int
	renew  bool
	// noRoom counts the looks at a record without room for this VM, in a row.
	noRoom int
}

var errNoRoom = errors.New("there are too many VMs")

// names of the values and queues in this VM's name space of the host.
func (s *share) name(kind string) string {
	source := &s.poll.source
	return "hfi." + kind + ".1 " + source.Cluster + " " + source.Address + " " + source.StaleAfter.String() +
		" " + quote(source.Gateway) + " " + quote(source.Namespace)
}

// asks reports whether this VM asks the daemon.
func (s *share) asks() bool { return s.alone || s.leads }

// restart makes the VM join again in another plugin context.
func (s *share) restart(now time.Time) {
	s.joined = false
	s.next = now
	source := &s.poll.source
	// A VM that cannot enforce policies reports why by itself.
	s.alone = s.alone || source.Refused != "" || source.StaleAfter < minSharedStale
}

// tick does what is due.
func (s *share) tick(now time.Time) {
	if s.alone || now.Before(s.next) {
		return
	}
	if s.leads {
		s.poll.vm.trap(onLead)
	}
	s.next = now.Add(s.poll.jitter(signPeriod))
	if !s.joined && !s.join(now) {
		return
	}
	s.sign(now, true)
}

// join registers the queue, and creates the record. It must run in the poller's plugin
// context, and not while a plugin context starts: Envoy starts each also in a VM that it
// uses for nothing else.
func (s *share) join(now time.Time) bool {
	queue, err := proxywasm.RegisterSharedQueue(s.name("queue " + s.poll.vm.id))
	if err != nil {
		s.failed("registering a queue", err)
		return false
	}
	s.queue, s.joined = queue, true
	if s.heardAt.IsZero() {
		s.heardAt = now
	}
	_, _, err = proxywasm.GetSharedData(s.name("group"))
	if err != errNotFound { //nolint:errorlint // the SDK returns it as it is, and errors.Is adds to the module
		return true
	}
	empty := group.Record{}
	if err := proxywasm.SetSharedData(s.name("group"), empty.Encode(), 0); err != nil && err != types.ErrorStatusCasMismatch { //nolint:errorlint // as above
		s.failed("writing to the shared data", err)
		return false
	}
	s.next = now.Add(creationPause)
	return false
}

// failed makes the poller ask by itself, because the host does not let it share.
func (s *share) failed(doing string, err error) {
	proxywasm.LogWarn("hfi: this VM fetches policies by itself: " + doing + ": " + err.Error())
	s.alone, s.leads, s.gathering = true, false, false
	s.poll.next = s.poll.vm.now()
}

// load reads the record. One that is invalid counts as empty.
func (s *share) load() (r group.Record, cas uint32, err error) {
	data, cas, err := proxywasm.GetSharedData(s.name("group"))
	if err != nil && err != errNotFound { //nolint:errorlint // as above
		return r, 0, err
	}
	r, _ = group.Read(data)
	return r, cas, nil
}

// change changes the record, unless f returns false. It calls f again if another VM
// has changed the record meanwhile. It reports whether the record was changed.
func (s *share) change(f func(*group.Record) bool) bool {
	for range maxChanges {
		r, cas, err := s.load()
		if err != nil {
			s.failed("reading the shared data", err)
			return false
		}
		if !f(&r) {
			return false
		}
		err = proxywasm.SetSharedData(s.name("group"), r.Encode(), cas)
		if err == nil {
			s.record = r
			return true
		}
		if err != types.ErrorStatusCasMismatch { //nolint:errorlint // as above
			s.failed("writing to the shared data", err)
			return false
		}
	}
	return false
}

// leave tells the others that this VM stops.
func (s *share) leave() {
	if s.alone || !s.joined {
		return
	}
	s.joined = false
	id, last := s.poll.vm.id, false
	_, cas, err := proxywasm.GetSharedData(s.name("program"))
	s.change(func(r *group.Record) bool {
		me := r.Member(id)
		if me == nil {
			return false
		}
		if r.Leader == id {
			r.Leader = ""
		}
		me.Left, me.Tag = true, ""
		me.Beat++
		if len(s.poll.vm.plugins) > 0 {
			// It lives, in another group.
			r.Remove(func(m *group.Member) bool { return m.ID == id })
		}
		last = true
		for i := range r.Members {
			last = last && !s.watch.Lives(&r.Members[i])
		}
		if last { // Whoever comes later must not start with these policies.
			r.Tag = ""
		}
		return true
	})
	if last && err == nil {
		none := group.Program{}
		_ = proxywasm.SetSharedData(s.name("program"), none.Encode(), cas) // unless another VM has shared its policies meanwhile
	}
	if s.leads {
		s.leads = false
		s.wakeAll()
	}
}
