package fleet

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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
	// VMGone: the VM closed it without an answer.
	VMGone VMState = "gone"
)

// tracker remembers the newest request of each VM to this replica.
type tracker struct {
	seed maphash.Seed
	// shards keep requests of different filters from contending for one lock.
	shards [64]shard
	// count is the number of VMs in all shards, and those about to be added.
	count atomic.Int64

	fullMu sync.Mutex
	// sweptAll is when all shards were last swept because MaxVMs was reached;
	// refused is when a VM was last not remembered because of it. fullMu guards both.
	sweptAll, refused time.Time
}

// shard has the filters whose ID hashes to it.
type shard struct {
	mu      sync.Mutex
	filters map[api.FilterID]map[string]*vm
	swept   time.Time
}

// vm is one VM. Its shard's lock guards it.
type vm struct {
	state VMState
	// number counts its requests: only the end of the newest one matters.
	number uint64
	// digest is that of the policies in force at its newest request, or empty.
	digest string
	// first is when its first request began, asked when its newest did, and
	// ended when the newest one ended.
	first, asked, ended time.Time
	// since is when it first asked with this digest, and other when it last
	// asked with another one; zero if it never did.
	since, other time.Time
	// retry is how long the last answer told it to wait before the next request.
	retry time.Duration
}

// Request is a VM's open request. Answered or Left ends it, once.
type Request struct {
	fleet *Fleet
	shard *shard
	// vm is nil if the VM is not remembered.
	vm     *vm
	number uint64
}

// Ask records that a request of a VM begins. The digest is that of the
// policies that the VM enforces, or empty if it enforces none.
func (f *Fleet) Ask(id api.FilterID, name, digest string) Request {
	now := f.Now()
	shard := &f.shards[maphash.Comparable(f.seed, id)%uint64(len(f.shards))]
	request := Request{fleet: f, shard: shard}
	if request.begin(id, name, digest, now) || !f.makeRoom(now) {
		return request
	}
	if !request.begin(id, name, digest, now) {
		f.fullMu.Lock()
		f.refused = now
		f.fullMu.Unlock()
	}
	return request
}

// begin is false if the VM is new and there is no room for it.
func (r *Request) begin(id api.FilterID, name, digest string, now time.Time) bool {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	v := r.shard.filters[id][name]
	if v == nil {
		if v = r.fleet.add(r.shard, id, name, now); v == nil {
			return false
		}
		v.first, v.since = now, now
	} else if v.digest != digest {
		v.since, v.other = now, v.asked
	}
	if v.digest != digest {
		// A header's text may share memory with the whole request.
		v.digest = strings.Clone(digest)
	}
	v.state, v.asked = VMWaiting, now
	v.number++
	r.vm, r.number = v, v.number
	return true
}

// add makes a VM, or returns nil if there is no room. The caller holds the shard's lock.
func (f *Fleet) add(shard *shard, id api.FilterID, name string, now time.Time) *vm {
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
	v := &vm{}
	vms[strings.Clone(name)] = v
	return v
}

// sweep removes filters none of whose VMs has asked for Forget, and of other
// filters the VMs that have not asked for limit. The caller holds the shard's lock.
func (f *Fleet) sweep(shard *shard, now time.Time, limit time.Duration) {
	shard.swept = now
	for id, vms := range shard.filters {
		vmLimit := f.Forget
		for _, v := range vms {
			if !v.endedBefore(now, f.Forget) {
				vmLimit = limit
				break
			}
		}
		for name, v := range vms {
			if v.endedBefore(now, vmLimit) {
				delete(vms, name)
				f.count.Add(-1)
			}
		}
		if len(vms) == 0 {
			delete(shard.filters, id)
		}
	}
}

// endedBefore reports whether the VM's last request ended longer ago than limit.
func (v *vm) endedBefore(now time.Time, limit time.Duration) bool {
	return v.state != VMWaiting && now.Sub(v.ended) > limit
}

// makeRoom sweeps all shards, and reports whether it did. It does so at most
// once a second, which bounds the cost of requests with invented names.
func (f *Fleet) makeRoom(now time.Time) bool {
	f.fullMu.Lock()
	defer f.fullMu.Unlock()
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

// Answered records that the request was answered; retry is how long the answer
// told the VM to wait before it asks again, or zero.
func (r Request) Answered(retry time.Duration) { r.end(VMAnswered, retry) }

// Left records that the VM closed the request: it has stopped, or was replaced.
func (r Request) Left() { r.end(VMGone, 0) }

func (r Request) end(state VMState, retry time.Duration) {
	if r.vm == nil {
		return
	}
	now := r.fleet.Now()
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	if r.vm.number == r.number {
		r.vm.state, r.vm.ended, r.vm.retry = state, now, retry
	}
}

// PodGone records that a pod was deleted: its VMs that were answered here are
// not expected to ask again, though the replica that they asked last may have
// been lost. A VM of it that asks all the same is alive.
func (f *Fleet) PodGone(namespace, pod string) {
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		for id, vms := range shard.filters {
			if id.Pod != pod || id.Namespace != namespace {
				continue
			}
			for _, v := range vms {
				if v.state == VMAnswered {
					v.state = VMGone
				}
			}
		}
		shard.mu.Unlock()
	}
}

// seen is all that this replica remembers, in no order. It includes VMs that
// have gone: another replica may have an older request of them.
func (f *Fleet) seen() []FilterSeen {
	now := f.Now()
	filters := []FilterSeen{}
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		f.sweep(shard, now, f.Remember)
		for id, vms := range shard.filters {
			filter := FilterSeen{FilterID: id, VMs: make([]VMSeen, 0, len(vms))}
			for name, v := range vms {
				filter.VMs = append(filter.VMs, v.seen(name, now))
			}
			filters = append(filters, filter)
		}
		shard.mu.Unlock()
	}
	return filters
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

// full reports whether a VM was recently not remembered because of MaxVMs.
func (f *Fleet) full() bool {
	f.fullMu.Lock()
	defer f.fullMu.Unlock()
	return !f.refused.IsZero() && f.Now().Sub(f.refused) <= f.Forget
}
