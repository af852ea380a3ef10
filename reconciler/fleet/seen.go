package fleet

import (
	"crypto/sha256"
	"encoding/base64"
	"time"
)

// publicName is what a VM is known by here and in reports, which anybody may read: a
// hash of its random name, so that no reader can ask in its name. All replicas
// compute the same.
func publicName(name string) string {
	sum := sha256.Sum256([]byte(name))
	return base64.RawURLEncoding.EncodeToString(sum[:publicNameBytes])
}

// publicNameBytes is how much of the hash is kept: enough that nobody finds another
// name with the same one.
const publicNameBytes = 12

// PodGone records that a pod was deleted: its VMs that were answered here, or
// wait, are not expected to ask again, though the replica that they asked last
// may have been lost. A VM of it that asks anyway is alive, but has no claim to the
// address of the next pod of that name, unless it may be of that one: the news of the
// deletion may be a little late.
func (f *Fleet) PodGone(namespace, pod string) {
	now := f.Now()
	for i := range f.shards {
		shard := &f.shards[i]
		shard.mu.Lock()
		for id, vms := range shard.filters {
			if id.Pod != pod || id.Namespace != namespace {
				continue
			}
			for _, v := range vms.list {
				v.podGone = true
				v.outlived = v.outlived || now.Sub(v.first) > f.Grace
				if v.state != VMWaiting {
					v.state, v.retry = VMGone, 0
				}
			}
		}
		shard.mu.Unlock()
	}
}

// known returns the function that returns what this replica remembers in a
// shard, in no order, until it is called again. It includes VMs that have gone:
// another replica may have an older request of them.
func (f *Fleet) known() func(shard int) []FilterSeen {
	var unconfirmed [shards][]FilterSeen
	for _, filter := range f.unconfirmed.seen(f.Now()) {
		shard := f.shardIndex(filter.FilterID)
		unconfirmed[shard] = append(unconfirmed[shard], filter)
	}
	var filters []FilterSeen
	var vms []VMSeen
	return func(shard int) []FilterSeen {
		filters, vms = f.shardSeen(&f.shards[shard], f.Now(), filters[:0], vms[:0])
		filters = append(filters, unconfirmed[shard]...)
		return filters
	}
}

// shardSeen appends the filters in a shard, and their VMs, which these refer to.
func (f *Fleet) shardSeen(shard *shard, now time.Time, filters []FilterSeen, vms []VMSeen) ([]FilterSeen, []VMSeen) {
	shard.mu.Lock()
	defer shard.mu.Unlock()
	f.sweep(shard, now, f.Remember)
	for id, of := range shard.filters {
		first := len(vms)
		for _, v := range of.list {
			seen := v.seen(now)
			seen.Unproven = !v.confirmedApply && v.asked.Sub(v.first) < f.SettleTime
			vms = append(vms, seen)
		}
		filters = append(filters, FilterSeen{FilterID: id, VMs: vms[first:len(vms):len(vms)]})
	}
	return filters, vms
}

func (v *vm) seen(now time.Time) VMSeen {
	seen := VMSeen{
		ID: v.key.name, Address: v.key.address, State: v.state, Digest: v.digest, Envoy: v.envoy, Problem: v.problem, Directions: v.directions, Outlived: v.outlived, FirstAgo: now.Sub(v.first), AskedAgo: now.Sub(v.asked), SinceAgo: now.Sub(v.since),
		ConnectedAgo: now.Sub(v.connections[len(v.connections)-1].first),
	}
	if v.state != VMWaiting {
		seen.EndedAgo, seen.Retry = now.Sub(v.ended), v.retry
	}
	if !v.other.IsZero() {
		seen.OtherAgo = max(now.Sub(v.other), 1)
	}
	return seen
}
