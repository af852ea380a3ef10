package fleet

import (
	"slices"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// part is what one replica knows of a filter.
type part struct {
	replica string
	age     time.Duration
	vms     []VMSeen
}

// grouping groups what several replicas know by filter, a shard at a time: so
// only the result is ever in memory as a whole, beside the reports.
type grouping struct {
	fleet   *Fleet
	reports []ReplicaReport
	// inShard are the filters of the reports in each shard.
	inShard [shards][]place
	// filters, and parts, of which most filters have one, are those of a shard.
	filters map[api.FilterID][]part
	parts   []part
}

// place is where a filter is in the reports.
type place struct{ report, filter int32 }

func (f *Fleet) group(reports []ReplicaReport) *grouping {
	g := &grouping{fleet: f, reports: reports, filters: map[api.FilterID][]part{}}
	for i := range reports {
		for j := range reports[i].Filters {
			shard := f.shardIndex(reports[i].Filters[j].FilterID)
			g.inShard[shard] = append(g.inShard[shard], place{int32(i), int32(j)})
		}
	}
	return g
}

// shard is the filters of a shard, with those of own, which this replica knows.
// It holds until the next call.
func (g *grouping) shard(i int, own []FilterSeen) map[api.FilterID][]part {
	clear(g.filters)
	most := len(own) + len(g.inShard[i])
	g.parts = slices.Grow(g.parts[:0], most)
	for j := range own {
		g.add(own[j].FilterID, part{g.fleet.ID, 0, own[j].VMs})
	}
	for _, at := range g.inShard[i] {
		report := &g.reports[at.report]
		filter := &report.Filters[at.filter]
		g.add(filter.FilterID, part{report.Replica, report.Age, filter.VMs})
	}
	return g.filters
}

func (g *grouping) add(id api.FilterID, next part) {
	if before, known := g.filters[id]; known {
		g.filters[id] = append(before, next)
		return
	}
	g.parts = append(g.parts, next)
	last := len(g.parts) - 1
	g.filters[id] = g.parts[last : last+1 : last+1]
}

// mergedVM is what all replicas together know of a VM.
type mergedVM struct {
	// VMSeen is of the newest request, with its ages as they are now.
	VMSeen
	// replica is the one that has the newest request.
	replica string
	// others are what the other replicas know.
	others []VMSeen
	// claim is the newest request on a connection on which the VM has not asked
	// before, if it has asked on others; else nil.
	claim *VMSeen
}

// merger finds the newest request of each VM. A load balancer may send each
// request to another replica, so a VM that waits on one was answered by
// another before. A waiting request counts as newer than an ended one: the
// travel time of the reports, some milliseconds, may reverse the ages of two.
type merger struct {
	// vms and index, of VMs by ID, are reused for each filter.
	vms   []mergedVM
	index map[string]int
}

// merge leaves out the requests that do not count, because others come from the
// filter's address.
func (m *merger) merge(parts []part, of owners) []mergedVM {
	m.vms = m.vms[:0]
	clear(m.index)
	for _, part := range parts {
		for _, seen := range part.vms {
			seen = seen.older(part.age)
			if of.foreign(&seen) {
				continue
			}
			if len(parts) == 1 && !of.several {
				// A replica lists a VM once for each address.
				m.vms = append(m.vms, mergedVM{VMSeen: seen, replica: part.replica})
				continue
			}
			i, known := m.index[seen.ID]
			if !known {
				m.index[seen.ID] = len(m.vms)
				m.vms = append(m.vms, mergedVM{VMSeen: seen, replica: part.replica})
				continue
			}
			vm := &m.vms[i]
			if seen.Claimed != vm.Claimed {
				vm.join(seen, part.replica)
				continue
			}
			unproven := seen.Unproven && vm.Unproven
			if seen.newerThan(vm.VMSeen) {
				vm.VMSeen, seen = seen, vm.VMSeen
				vm.replica = part.replica
			}
			vm.Unproven = unproven
			vm.others = append(vm.others, seen)
		}
	}
	return m.vms
}

// join merges what has proof with a claim, which never overrules it.
func (v *mergedVM) join(seen VMSeen, replica string) {
	if v.Claimed {
		claim := v.VMSeen
		*v = mergedVM{VMSeen: seen, replica: replica, claim: &claim}
	} else if v.claim == nil || seen.newerThan(*v.claim) {
		v.claim = &seen
	}
}

func (v VMSeen) older(by time.Duration) VMSeen {
	v.FirstAgo, v.AskedAgo, v.SinceAgo, v.ConnectedAgo = max(v.FirstAgo+by, 0), max(v.AskedAgo+by, 0), max(v.SinceAgo+by, 0), max(v.ConnectedAgo+by, 0)
	if v.State != VMWaiting {
		v.EndedAgo = max(v.EndedAgo+by, 0)
	}
	if v.OtherAgo > 0 {
		v.OtherAgo += by
	}
	return v
}

// newerThan reports whether the request is newer than the other. A VM has one
// request at a time, so of two that have ended, the newer one ended later: their
// ends are seconds apart even if they began within the time that a report takes.
func (v VMSeen) newerThan(other VMSeen) bool {
	waits, otherWaits := v.State == VMWaiting, other.State == VMWaiting
	switch {
	case waits != otherWaits:
		return waits
	case waits:
		return v.AskedAgo < other.AskedAgo
	}
	return v.EndedAgo < other.EndedAgo
}

// firstAgo is how long ago the VM sent its first request to any replica.
func (v *mergedVM) firstAgo() time.Duration {
	first := v.FirstAgo
	for _, seen := range v.others {
		first = max(first, seen.FirstAgo)
	}
	return first
}

// connectedAgo is how long ago the VM connected that still asks: to the replica
// of its newest request, or to another one that it asked within the limit.
func (v *mergedVM) connectedAgo(limit time.Duration) time.Duration {
	connected := v.ConnectedAgo
	for _, seen := range v.others {
		if seen.State == VMWaiting || seen.EndedAgo <= limit {
			connected = max(connected, seen.ConnectedAgo)
		}
	}
	return connected
}

// inForce is how long the VM has had its digest, as far as is known: since the
// first request with it after the last request with another one.
func (v *mergedVM) inForce() time.Duration {
	if len(v.others) == 0 {
		return v.SinceAgo
	}
	limit := time.Duration(1<<63 - 1)
	if v.OtherAgo > 0 {
		limit = v.OtherAgo
	}
	for _, seen := range v.others {
		if seen.Digest != v.Digest {
			limit = min(limit, seen.AskedAgo)
		} else if seen.OtherAgo > 0 {
			limit = min(limit, seen.OtherAgo)
		}
	}
	longest := v.SinceAgo
	for _, seen := range v.others {
		for _, had := range []time.Duration{seen.SinceAgo, seen.AskedAgo} {
			if seen.Digest == v.Digest && had < limit {
				longest = max(longest, had)
			}
		}
	}
	return longest
}
