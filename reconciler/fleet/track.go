package fleet

import (
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/boifi/hfi/internal/api"
)

// VMState is the state of a VM's newest request.
type VMState string

// The states of a VM's newest request.
const (
	// VMWaiting: it is open.
	VMWaiting VMState = "waiting"
	// VMAnswered: it was answered, and the VM is expected to ask again.
	VMAnswered VMState = "answered"
	// VMGone: the VM closed it without an answer. It counts until Grace is over, and the
	// time that the request's Retry says.
	VMGone VMState = "gone"
)

// tracker remembers the newest request of each VM to this replica.
type tracker struct {
	seed maphash.Seed
	// shards keep requests of different filters from contending for one lock.
	shards [shards]shard
	// count is the number of VMs in all shards, and those about to be added;
	// size is the memory that they take, in bytes.
	count, size atomic.Int64
	unconfirmed unconfirmedVMs
	named       namedVMs

	// refused is when a VM, or a text of it, was last not remembered because of a
	// bound; nil if never.
	refused atomic.Pointer[time.Time]

	sweepMu sync.Mutex
	// sweptAll is when all shards were last swept because a bound was reached. sweepMu guards it.
	sweptAll time.Time
}

// vm is one VM that has asked more than once on one of its connections. Its
// shard's lock guards it.
type vm struct {
	key   vmKey
	state VMState
	// number counts its requests: only the end of the newest one matters.
	number uint64
	// digest is that of the policies in force at its newest request, or empty.
	digest string
	// envoy and problem are what it says of itself: see Request.Describe.
	envoy, problem string
	directions     Directions
	// first is when its first request began, asked when its newest did, and
	// ended when the newest one ended.
	first, asked, ended time.Time
	// since is when it first asked with this digest, and other when it last
	// asked with another one; zero if it never did.
	since, other time.Time
	// retry is how long the last answer asked it to wait before the next request, or how
	// much longer than Grace another VM may take to ask for it.
	retry time.Duration
	// connections are those that its newest requests came by, the newest last.
	connections []connection
	// confirmedApply: it was given policies on a connection, and then asked on that
	// one with them in force.
	confirmedApply bool
	// podGone: its pod was deleted since its newest request began.
	podGone bool
	// outlived: its pod was deleted since its first request began, and not just then.
	outlived bool
	// namedBy is the VM that added it by naming it; nil if it has asked itself.
	namedBy *vm
}

// connection is one on which a VM has asked.
type connection struct {
	id uint64
	// first is when the VM first asked on it, and given is the digest of the
	// policies that it was last given on it.
	first time.Time
	given string
}

// maxConnections bounds the connections that are remembered of one VM. A
// filter has one to each replica; a proxy between may have more.
const maxConnections = 8

// Caller is where a request comes from.
type Caller struct {
	// Connection identifies the connection.
	Connection uint64
	// Address is that of the connection's other end.
	Address netip.Addr
}

// Request is a VM's open request. Answered or Left ends it, once.
type Request struct {
	// First: the VM has not asked on this connection before. Anybody may have
	// sent the request: it should be answered soon, so that the VM asks again.
	First bool

	fleet  *Fleet
	shard  *shard
	caller Caller
	// sighting is that of the VM that asks, and others are those of the VMs that it names.
	sighting
	others []sighting
}

// sighting is what a request says of one VM.
type sighting struct {
	// vm and unconfirmed are nil if it is not remembered.
	vm          *vm
	unconfirmed *unconfirmedVM
	number      uint64
	// first: the VM has not asked on this connection before.
	first bool
}

// VM is a VM for which another one of its filter asks.
type VM struct {
	Name string
	// Digest is that of the policies that it enforces, or empty if it enforces none.
	Digest string
	// Gone: it has been replaced or stopped.
	Gone bool
}

// Ask records that a request of a VM begins. The digest is that of the
// policies that the VM enforces, or empty if it enforces none. The VMs of one
// Envoy have one of them ask for all: the others count as if they asked on its
// connection themselves.
//
// One request proves nothing: anyone can send it. So a VM is confirmed by its
// second request on a connection, and then takes precedence over unconfirmed
// requests in its name. VMs that a confirmed one names are confirmed with it;
// those that an unconfirmed one names are ignored.
func (f *Fleet) Ask(id api.FilterID, name, digest string, caller Caller, others ...VM) Request {
	now := f.Now()
	name = publicName(name)
	caller.Address = caller.Address.Unmap().WithZone("")
	r := Request{fleet: f, shard: f.shardOf(id), caller: caller}
	r.sighting = r.see(id, VM{Name: name, Digest: digest}, now)
	r.First = r.first && f.brief.AllowN(now, 1)
	if r.vm != nil {
		r.seeOthers(id, others, now)
	}
	return r
}

// see records a request of a VM.
func (r *Request) see(id api.FilterID, of VM, now time.Time) (s sighting) {
	if s, known := r.continues(id, of, now); known {
		return s
	}
	f := r.fleet
	key := unconfirmedKey{id, of.Name, r.caller.Connection}
	given, again := f.unconfirmed.answered(key)
	if !again {
		s.first = true
		s.unconfirmed, s.number = f.unconfirmed.ask(key, r.caller.Address, of.Digest, now)
		if s.unconfirmed == nil {
			f.refuse(now)
		}
		return s
	}
	return r.confirm(key, of.Digest, given, now)
}

// seeOther records that the VM that asks, which is confirmed, names another one.
func (r *Request) seeOther(id api.FilterID, other VM, now time.Time) sighting {
	if s, known := r.continues(id, other, now); known {
		return s
	}
	return r.confirm(unconfirmedKey{id, other.Name, r.caller.Connection}, other.Digest, r.given(), now)
}

// given is the digest of the policies that the VM that asks was last given on its connection.
func (r *Request) given() string {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	if at := r.vm.on(r.caller.Connection); at >= 0 {
		return r.vm.connections[at].given
	}
	return ""
}

// confirm adds a connection of a VM, and the VM if it is new and there is room for it.
func (r *Request) confirm(key unconfirmedKey, digest, given string, now time.Time) sighting {
	s, added := r.begin(key, digest, given, now)
	if !added && r.fleet.makeRoom(now) {
		s, added = r.begin(key, digest, given, now)
	}
	if !added {
		r.fleet.refuse(now)
	}
	return s
}

// left records that a VM has been replaced or stopped, as the one that asks says, which
// is confirmed.
func (r *Request) left(id api.FilterID, name string, now time.Time) {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	v := r.shard.filters[id].get(vmKey{name, r.caller.Address})
	if v == nil {
		return
	}
	v.retry = 0
	if v.state != VMGone {
		v.state, v.ended = VMGone, now
		v.number++ // The end of an older request does not count.
	}
}

// refuse records that a VM, or a text of it, is not remembered because of a bound.
func (f *Fleet) refuse(now time.Time) { f.refused.Store(&now) }

// replaced is the text that takes the place of a VM's old one: next, or fallback if there
// is no room for that. The caller holds the shard's lock.
func (f *Fleet) replaced(old, next, fallback string, now time.Time) string {
	if more := textSize(next) - textSize(old); f.size.Add(more) > f.MaxBytes && more > 0 {
		f.size.Add(-more)
		f.refuse(now)
		f.size.Add(textSize(fallback) - textSize(old))
		return fallback
	}
	// A header's text may share memory with the whole request.
	return strings.Clone(next)
}

// continues is false if the VM has not asked on this connection before.
func (r *Request) continues(id api.FilterID, of VM, now time.Time) (s sighting, known bool) {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	v := r.shard.filters[id].get(vmKey{of.Name, r.caller.Address})
	if v == nil {
		return s, false
	}
	at := v.on(r.caller.Connection)
	if at < 0 {
		return s, false
	}
	on := v.connections[at]
	v.connections = append(slices.Delete(v.connections, at, at+1), on)
	return r.ask(v, on, of.Digest, now), true
}

// on is the index of a connection, or -1 if the VM has not asked on it.
func (v *vm) on(id uint64) int {
	return slices.IndexFunc(v.connections, func(c connection) bool { return c.id == id })
}

// begin adds a connection of a VM, and the VM if it is new. It is false if
// there is no room for it, but not if only its source has named too many: those of
// others are not missing.
func (r *Request) begin(key unconfirmedKey, digest, given string, now time.Time) (s sighting, added bool) {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	vmKey := vmKey{key.name, r.caller.Address}
	v := r.shard.filters[key.id].get(vmKey)
	if v == nil {
		if r.vm != nil && !r.fleet.named.add(r.caller.Address) {
			return s, true
		}
		if v = r.fleet.add(r.shard, key.id, vmKey, digest, now); v == nil {
			if r.vm != nil {
				r.fleet.named.remove(r.caller.Address)
			}
			return s, false
		}
		v.namedBy, v.first, v.since = r.vm, now, now
		v.digest = strings.Clone(digest)
	}
	r.fleet.unconfirmed.remove(key)
	if len(v.connections) == maxConnections {
		v.connections = slices.Delete(v.connections, 0, 1)
	}
	on := connection{id: r.caller.Connection, first: now, given: given}
	v.connections = append(v.connections, on)
	return r.ask(v, on, digest, now), true
}

// ask records the request, or that the VM which asks, if r.vm is set already, names this
// one. The caller holds the shard's lock.
func (r *Request) ask(v *vm, on connection, digest string, now time.Time) sighting {
	if r.vm == nil && v.namedBy != nil {
		v.namedBy = nil
		r.fleet.named.remove(v.key.address)
	}
	if v.digest != digest {
		v.since, v.other = now, v.asked
		v.digest = r.fleet.replaced(v.digest, digest, "", now)
	}
	v.confirmedApply = v.confirmedApply || digest != "" && digest == on.given
	v.state, v.asked, v.podGone = VMWaiting, now, false
	v.number++
	return sighting{vm: v, number: v.number}
}

// Description is what a VM says of itself.
type Description struct {
	// Envoy is the version of its Envoy, and Problem why it cannot enforce policies, or empty.
	Envoy, Problem string
	Directions     Directions
}

// Describe records what the VM that asks says of itself. Those that it names run in the same
// Envoy, with the same settings. It is recorded once a VM is confirmed.
func (r *Request) Describe(says Description) {
	r.describe(r.vm, says)
	for _, other := range r.others {
		r.describe(other.vm, says)
	}
}

func (r *Request) describe(v *vm, says Description) {
	if v == nil {
		return
	}
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	v.directions = says.Directions
	if v.envoy == says.Envoy && v.problem == says.Problem {
		return
	}
	now := r.fleet.Now()
	v.envoy = r.fleet.replaced(v.envoy, says.Envoy, v.envoy, now)
	v.problem = r.fleet.replaced(v.problem, says.Problem, v.problem, now)
}

// Answered records that the request was answered: with policies, whose digest
// is given, or else with none. Retry is how long the answer asked the VM to wait
// before its next request, or zero.
func (r Request) Answered(given string, retry time.Duration) {
	now := r.fleet.Now()
	// It may share memory with a whole answer, and many VMs are given the same.
	given = unique.Make(given).Value()
	r.endOf(r.sighting, VMAnswered, given, retry, now)
	for _, other := range r.others {
		r.endOf(other, VMAnswered, given, retry, now)
	}
}

// Left records that the VM closed the request: it has stopped, or was replaced. Those that
// it named may live: they count for SettleTime, within which another one asks for them.
func (r Request) Left() {
	now := r.fleet.Now()
	r.endOf(r.sighting, VMGone, "", 0, now)
	for _, other := range r.others {
		r.endOf(other, VMGone, "", max(r.fleet.SettleTime-r.fleet.Grace, 0), now)
	}
}

func (r *Request) endOf(s sighting, state VMState, given string, retry time.Duration, now time.Time) {
	if s.unconfirmed != nil {
		r.fleet.unconfirmed.end(s.unconfirmed, s.number, state, given, retry, now)
	}
	if s.vm == nil {
		return
	}
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	if at := s.vm.on(r.caller.Connection); at >= 0 && given != "" {
		s.vm.connections[at].given = given
	}
	if s.vm.number == s.number {
		if s.vm.podGone {
			state, retry = VMGone, 0
		}
		s.vm.state, s.vm.ended, s.vm.retry = state, now, retry
	}
}
