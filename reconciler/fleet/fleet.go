// Package fleet knows which filter enforces which policies: it remembers what
// the filters of this replica ask for, merges that with what the other replicas
// have seen, and says which filters are current, behind or silent.
package fleet

import (
	"github.com/boifi/hfi/internal/api"
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of a Fleet's tunable fields.
const (
	DefaultGrace    = 8 * time.Second
	DefaultForget   = 10 * time.Minute
	DefaultRemember = 24 * time.Hour
	DefaultMaxVMs   = 100_000
)

// Replicas are the daemons that share a store, as far as this one knows.
type Replicas struct {
	// List is by ID, and has this daemon too once the store has heard of it.
	List []api.Replica
	// LostAt is when this daemon last saw another one go or be replaced by a new
	// life of it, or may have missed that; zero if it never did. What waited
	// there may still hang on it, or be on its way to another.
	LostAt time.Time
	// Doubt is why the list may not be all of them, or empty.
	Doubt string
}

// VMState is how a VM's newest request stands.
type VMState string

// The states of a VM's newest request.
const (
	// VMWaiting: it is open.
	VMWaiting VMState = "waiting"
	// VMAnswered: it was answered, and the VM is to ask again.
	VMAnswered VMState = "answered"
	// VMGone: the VM closed it, and needs no answer.
	VMGone VMState = "gone"
)

// Fleet remembers the filters whose requests this replica has had: of each
// VM its newest request, and which policies it then had in force. It writes
// nothing anywhere. Its exported fields are set before its first use.
type Fleet struct {
	// Now must not go back: ages are taken from it.
	Now func() time.Time
	// Grace is how long a VM may take from one request's answer to its next
	// request and still count as at work.
	Grace time.Duration
	// Forget is how long after its last request a VM is told of, if no VM of
	// its filter that was there before it stopped goes on asking. One that does
	// shows that the sidecar still runs, with a VM that enforces nothing: such a
	// VM is told of for as long as it is remembered, which is Remember.
	Forget, Remember time.Duration
	// MaxVMs bounds the VMs remembered: anybody can make up names.
	MaxVMs int

	seed maphash.Seed
	// shards keep requests of different filters from waiting for each other.
	shards [64]fleetShard
	// count is the number of VMs in all shards, and those about to be added.
	count atomic.Int64

	full sync.Mutex
	// sweptAll is when all shards were last swept because MaxVMs was reached;
	// refused when a VM was last not remembered because of it. Both under full.
	sweptAll, refused time.Time
}

// fleetShard has the filters whose ID hashes to it.
type fleetShard struct {
	mu      sync.Mutex
	filters map[api.FilterID]map[string]*vm
	swept   time.Time
}

// vm is one VM. Its shard's lock guards it.
type vm struct {
	state VMState
	// number counts its requests: what ends is of interest only for the newest.
	number uint64
	// digest is what it had in force at its newest request; empty for nothing.
	digest string
	// first is when its first request began, asked when its newest did, and
	// ended when that ended.
	first, asked, ended time.Time
	// since is when it first asked with this digest, and other when it last
	// asked with another one; zero if it never did.
	since, other time.Time
	// retry is for how long the answer told it not to ask.
	retry time.Duration
}

// NewFleet is a fleet without any filter, with its defaults.
func NewFleet() *Fleet {
	return &Fleet{Now: time.Now, Grace: DefaultGrace, Forget: DefaultForget, Remember: DefaultRemember, MaxVMs: DefaultMaxVMs, seed: maphash.MakeSeed()}
}

// Asking is a VM's request, from Ask until one of its methods is called, once.
type Asking struct {
	fleet *Fleet
	shard *fleetShard
	// vm is nil if the VM is not remembered.
	vm     *vm
	number uint64
}

// Ask notes that a request of a VM begins. The digest is of what the VM has in
// force; empty for nothing.
func (f *Fleet) Ask(id api.FilterID, name, digest string) Asking {
	now := f.Now()
	shard := &f.shards[maphash.Comparable(f.seed, id)%uint64(len(f.shards))]
	asking := Asking{fleet: f, shard: shard}
	if asking.begin(id, name, digest, now) || !f.makeRoom(now) {
		return asking
	}
	if !asking.begin(id, name, digest, now) {
		f.full.Lock()
		f.refused = now
		f.full.Unlock()
	}
	return asking
}

// begin is false if the VM is new and there is no room for it.
func (a *Asking) begin(id api.FilterID, name, digest string, now time.Time) bool {
	a.shard.mu.Lock()
	defer a.shard.mu.Unlock()
	one := a.shard.filters[id][name]
	if one == nil {
		if one = a.fleet.add(a.shard, id, name, now); one == nil {
			return false
		}
		one.first, one.since = now, now
	} else if one.digest != digest {
		one.since, one.other = now, one.asked
	}
	if one.digest != digest {
		// A copy: a header's text may hold on to its whole request.
		one.digest = strings.Clone(digest)
	}
	one.state, one.asked = VMWaiting, now
	one.number++
	a.vm, a.number = one, one.number
	return true
}

// add makes a VM, or nil if there is no room. The caller holds the shard's lock.
func (f *Fleet) add(shard *fleetShard, id api.FilterID, name string, now time.Time) *vm {
	if now.Sub(shard.swept) > f.Forget/10 {
		f.sweep(shard, now, f.Remember)
	}
	if f.count.Add(1) > int64(f.MaxVMs) {
		f.count.Add(-1)
		return nil
	}
	if shard.filters == nil {
		shard.filters = map[api.FilterID]map[string]*vm{}
	}
	vms := shard.filters[id]
	if vms == nil {
		vms = map[string]*vm{}
		shard.filters[api.FilterID{Node: strings.Clone(id.Node), Pod: strings.Clone(id.Pod), Service: strings.Clone(id.Service), Namespace: strings.Clone(id.Namespace)}] = vms
	}
	one := &vm{}
	vms[strings.Clone(name)] = one
	return one
}

// sweep forgets filters that have not asked for as long as Forget, and single
// VMs of others after patience. The caller holds the shard's lock.
func (f *Fleet) sweep(shard *fleetShard, now time.Time, patience time.Duration) {
	shard.swept = now
	for id, vms := range shard.filters {
		limit := f.Forget
		for _, one := range vms {
			if !one.over(now, f.Forget) {
				limit = patience
				break
			}
		}
		for name, one := range vms {
			if one.over(now, limit) {
				delete(vms, name)
				f.count.Add(-1)
			}
		}
		if len(vms) == 0 {
			delete(shard.filters, id)
		}
	}
}

// over says whether the VM's last request ended longer ago than limit.
func (v *vm) over(now time.Time, limit time.Duration) bool {
	return v.state != VMWaiting && now.Sub(v.ended) > limit
}

// makeRoom forgets, in all shards, what is to be forgotten, and says whether
// it makes sense to try again. It does so at most once a second, for then
// there is an end to what requests with made-up names can cost.
func (f *Fleet) makeRoom(now time.Time) bool {
	f.full.Lock()
	defer f.full.Unlock()
	if now.Sub(f.sweptAll) < time.Second {
		f.refused = now
		return false
	}
	f.sweptAll = now
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		f.sweep(shard, now, f.Forget)
		shard.mu.Unlock()
	}
	return true
}

// Answered notes that the request was answered; retry is for how long, if at
// all, the answer told the VM not to ask.
func (a Asking) Answered(retry time.Duration) { a.end(VMAnswered, retry) }

// Left notes that the VM closed the request: it has stopped, or was replaced.
func (a Asking) Left() { a.end(VMGone, 0) }

// PodGone notes that a pod is no more, so that VMs of it that were answered
// here and then went on elsewhere are not waited for: whom they asked last may
// be gone as well. A VM that asks all the same is there again.
func (f *Fleet) PodGone(namespace, pod string) {
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		for id, vms := range shard.filters {
			if id.Pod != pod || id.Namespace != namespace {
				continue
			}
			for _, one := range vms {
				if one.state == VMAnswered {
					one.state = VMGone
				}
			}
		}
		shard.mu.Unlock()
	}
}

func (a Asking) end(state VMState, retry time.Duration) {
	if a.vm == nil {
		return
	}
	now := a.fleet.Now()
	a.shard.mu.Lock()
	defer a.shard.mu.Unlock()
	if a.vm.number == a.number {
		a.vm.state, a.vm.ended, a.vm.retry = state, now, retry
	}
}

// FilterSeen is what one replica has seen of one filter, as replicas tell it
// each other. All times in it are ages, so that clocks need not agree.
type FilterSeen struct {
	api.FilterID
	VMs []VMSeen `json:"vms"`
}

// VMSeen is what one replica has seen of one VM.
type VMSeen struct {
	ID     string  `json:"id"`
	State  VMState `json:"state"`
	Digest string  `json:"digest"`
	// FirstAgo is how long ago its first request began, AskedAgo how long ago
	// its newest did, and EndedAgo how long ago that ended.
	FirstAgo time.Duration `json:"first_ago_ns"`
	AskedAgo time.Duration `json:"asked_ago_ns"`
	EndedAgo time.Duration `json:"ended_ago_ns,omitempty"`
	// SinceAgo is how long ago it first asked with this digest, and OtherAgo
	// how long ago it last asked with another one; zero if it never did.
	SinceAgo time.Duration `json:"since_ago_ns"`
	OtherAgo time.Duration `json:"other_ago_ns,omitempty"`
	// Retry is for how long its last answer told it not to ask.
	Retry time.Duration `json:"retry_ns,omitempty"`
}

// Seen is all that this replica remembers, in no order, those VMs included
// that have gone: another replica may know of them what is older.
func (f *Fleet) Seen() []FilterSeen {
	now := f.Now()
	seen := []FilterSeen{}
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		f.sweep(shard, now, f.Remember)
		for id, vms := range shard.filters {
			one := FilterSeen{FilterID: id, VMs: make([]VMSeen, 0, len(vms))}
			for name, v := range vms {
				one.VMs = append(one.VMs, v.seen(name, now))
			}
			seen = append(seen, one)
		}
		shard.mu.Unlock()
	}
	return seen
}

func (v *vm) seen(name string, now time.Time) VMSeen {
	seen := VMSeen{ID: name, State: v.state, Digest: v.digest, FirstAgo: now.Sub(v.first), AskedAgo: now.Sub(v.asked), SinceAgo: now.Sub(v.since)}
	if v.state != VMWaiting {
		seen.EndedAgo, seen.Retry = now.Sub(v.ended), v.retry
	}
	if !v.other.IsZero() {
		seen.OtherAgo = max(now.Sub(v.other), 1)
	}
	return seen
}

// Full says whether, not long ago, a VM was not remembered because there were
// too many: then what is seen is not all.
func (f *Fleet) Full() bool {
	f.full.Lock()
	defer f.full.Unlock()
	return !f.refused.IsZero() && f.Now().Sub(f.refused) <= f.Forget
}
