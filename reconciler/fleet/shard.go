package fleet

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// shards is their number.
const shards = 64

// shard has the filters whose ID hashes to it.
type shard struct {
	mu      sync.Mutex
	filters map[api.FilterID]*vmSet
	swept   time.Time
}

// vmSize is the memory that a VM takes beside its names and its digest, in
// bytes. In a report these take less.
const vmSize = 450

func (f *Fleet) shardOf(id api.FilterID) *shard { return &f.shards[f.shardIndex(id)] }

func (f *Fleet) shardIndex(id api.FilterID) int {
	return int(maphash.Comparable(f.seed, id) % shards)
}

// add makes a VM, or returns nil if there is no room. The caller holds the shard's lock.
func (f *Fleet) add(shard *shard, id api.FilterID, key vmKey, digest string, now time.Time) *vm {
	if now.Sub(shard.swept) > f.Forget/10 {
		f.sweep(shard, now, f.Remember)
	}
	size := sizeOf(id, key.name, digest)
	// Both, because both are taken back.
	count, total := f.count.Add(1), f.size.Add(size)
	if count > int64(f.MaxVMs) || total > f.MaxBytes {
		f.count.Add(-1)
		f.size.Add(-size)
		return nil
	}
	if shard.filters == nil {
		shard.filters = map[api.FilterID]*vmSet{}
	}
	vms := shard.filters[id]
	if vms == nil {
		vms = &vmSet{}
		shard.filters[cloneID(id)] = vms
	}
	key.name = strings.Clone(key.name)
	v := &vm{key: key}
	vms.add(v)
	return v
}

// sizeOf is the memory that a VM takes, in bytes, and at least its size in a report.
func sizeOf(id api.FilterID, name, digest string) int64 {
	return vmSize + textSize(id.Node) + textSize(id.Pod) + textSize(id.Service) + textSize(id.Namespace) + textSize(id.Gateway) + textSize(id.Waypoint) + textSize(name) + textSize(digest)
}

// textSize is the size of a name or a digest in a report, without the quotes.
// It has no control characters, and is UTF-8: package http checks it.
func textSize(text string) int64 {
	size := len(text) + strings.Count(text, `"`) + strings.Count(text, `\`)
	// Line and paragraph separators, of three bytes, are escaped as \u2028 and \u2029.
	return int64(size + 3*(strings.Count(text, "\u2028")+strings.Count(text, "\u2029")))
}

// cloneID copies an ID's text, which may share memory with a whole request.
func cloneID(id api.FilterID) api.FilterID {
	return api.FilterID{
		Node: strings.Clone(id.Node), Pod: strings.Clone(id.Pod), Service: strings.Clone(id.Service), Namespace: strings.Clone(id.Namespace),
		Gateway: strings.Clone(id.Gateway), Waypoint: strings.Clone(id.Waypoint),
	}
}

// sweep removes filters none of whose VMs has asked for Forget, and of other
// filters the VMs that have not asked for limit. The caller holds the shard's lock.
func (f *Fleet) sweep(shard *shard, now time.Time, limit time.Duration) {
	shard.swept = now
	for id, vms := range shard.filters {
		vmLimit := f.Forget
		for _, v := range vms.list {
			if !v.endedBefore(now, f.Forget) {
				vmLimit = limit
				break
			}
		}
		f.removeIf(shard, id, func(v *vm) bool { return v.endedBefore(now, vmLimit) })
	}
}

// removeIf removes some VMs of a filter. The caller holds the shard's lock.
func (f *Fleet) removeIf(shard *shard, id api.FilterID, is func(*vm) bool) {
	vms := shard.filters[id]
	vms.removeIf(func(v *vm) bool {
		if !is(v) {
			return false
		}
		f.count.Add(-1)
		if v.namedBy != nil {
			f.named.remove(v.key.address)
		}
		f.size.Add(-sizeOf(id, v.key.name, v.digest) - textSize(v.envoy) - textSize(v.problem))
		return true
	})
	if len(vms.list) == 0 {
		delete(shard.filters, id)
	}
}

// endedBefore reports whether the VM's last request ended longer ago than limit.
func (v *vm) endedBefore(now time.Time, limit time.Duration) bool {
	return v.state != VMWaiting && now.Sub(v.ended) > limit
}

// makeRoom sweeps all shards, also of the VMs that asked for a short time only,
// and reports whether it did. It does so at most once a second, which bounds
// the cost of requests with invented names.
func (f *Fleet) makeRoom(now time.Time) bool {
	f.sweepMu.Lock()
	defer f.sweepMu.Unlock()
	if now.Sub(f.sweptAll) < time.Second {
		return false
	}
	f.sweptAll = now
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		f.sweep(shard, now, f.Forget)
		for id := range shard.filters {
			// Real VMs ask for as long as their Envoy runs.
			f.removeIf(shard, id, func(v *vm) bool { return v.asked.Sub(v.first) < f.SettleTime && v.endedBefore(now, f.Grace+v.retry) })
		}
		shard.mu.Unlock()
	}
	return true
}

// full reports whether a VM was recently not remembered because of a bound.
func (f *Fleet) full() bool {
	refused := f.refused.Load()
	return refused != nil && f.Now().Sub(*refused) <= f.Forget
}
