package fleet

import (
	"github.com/boifi/hfi/internal/api"
	"time"
)

// Sighting is what one replica has seen of the filters.
type ReplicaReport struct {
	Replica string
	Filters []FilterSeen
	// Ago is how long ago it was taken: all its ages have grown by that.
	Ago time.Duration
}

// part is what one replica has seen of a filter.
type part struct {
	replica string
	ago     time.Duration
	vms     []VMSeen
}

// byFilter sorts sightings by filter.
func byFilter(sightings []ReplicaReport) map[api.FilterID][]part {
	most := 0
	for _, sighting := range sightings {
		most = max(most, len(sighting.Filters))
	}
	filters := make(map[api.FilterID][]part, most)
	// One array for most filters' only part: there are many filters.
	parts := make([]part, 0, most)
	for _, sighting := range sightings {
		for _, filter := range sighting.Filters {
			one := part{sighting.Replica, sighting.Ago, filter.VMs}
			if before, known := filters[filter.FilterID]; known {
				filters[filter.FilterID] = append(before, one)
				continue
			}
			parts = append(parts, one)
			last := len(parts) - 1
			filters[filter.FilterID] = parts[last : last+1 : last+1]
		}
	}
	return filters
}

// mergedVM is what all replicas together know of a VM.
type mergedVM struct {
	// VMSeen is the newest sighting, with its ages as they are now.
	VMSeen
	replica string
	// others are the other sightings.
	others []VMSeen
}

// merger takes of each VM the newest sighting. Requests are balanced one by
// one, so a VM that waits at one replica was answered by another before; what
// waits counts first, for a few milliseconds on the way between two replicas
// must not make the older one of two requests the newer.
type merger struct {
	// vms is used again for each filter, as is index, of VMs by ID.
	vms   []mergedVM
	index map[string]int
}

func (m *merger) merge(parts []part) []mergedVM {
	m.vms = m.vms[:0]
	clear(m.index)
	for _, part := range parts {
		for _, seen := range part.vms {
			seen = seen.older(part.ago)
			if len(parts) == 1 {
				// A replica names each VM once.
				m.vms = append(m.vms, mergedVM{VMSeen: seen, replica: part.replica})
				continue
			}
			i, known := m.index[seen.ID]
			if !known {
				m.index[seen.ID] = len(m.vms)
				m.vms = append(m.vms, mergedVM{VMSeen: seen, replica: part.replica})
				continue
			}
			one := &m.vms[i]
			if seen.newerThan(one.VMSeen) {
				one.VMSeen, seen = seen, one.VMSeen
				one.replica = part.replica
			}
			one.others = append(one.others, seen)
		}
	}
	return m.vms
}

func (v VMSeen) older(by time.Duration) VMSeen {
	v.FirstAgo, v.AskedAgo, v.SinceAgo = max(v.FirstAgo+by, 0), max(v.AskedAgo+by, 0), max(v.SinceAgo+by, 0)
	if v.State != VMWaiting {
		v.EndedAgo = max(v.EndedAgo+by, 0)
	}
	if v.OtherAgo > 0 {
		v.OtherAgo += by
	}
	return v
}

func (v VMSeen) newerThan(other VMSeen) bool {
	if waits := v.State == VMWaiting; waits != (other.State == VMWaiting) {
		return waits
	}
	return v.AskedAgo < other.AskedAgo
}

// firstAgo is how long ago the VM first asked any of the replicas.
func (v *mergedVM) firstAgo() time.Duration {
	first := v.FirstAgo
	for _, seen := range v.others {
		first = max(first, seen.FirstAgo)
	}
	return first
}

// inForce is for how long the VM has had its digest, as far as is known: from
// the first request with it after the last one with another.
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
