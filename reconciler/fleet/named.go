package fleet

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// maxNamedPerSource bounds the named VMs of one source address, as maxUnconfirmedPerSource
// bounds the unconfirmed ones. One VM names at most api.MaxVMs of them.
const maxNamedPerSource = 10_000

// namedVMs counts, by source address, the VMs that are remembered only because another
// one asks for them: one request adds many.
type namedVMs struct {
	mu     sync.Mutex
	counts map[netip.Prefix]int
}

// add counts one. It is false if there is no room for it.
func (n *namedVMs) add(address netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := sourcePrefix(address)
	if n.counts[from] >= maxNamedPerSource {
		return false
	}
	if n.counts == nil {
		n.counts = map[netip.Prefix]int{}
	}
	n.counts[from]++
	return true
}

func (n *namedVMs) remove(address netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	from := sourcePrefix(address)
	if n.counts[from]--; n.counts[from] == 0 {
		delete(n.counts, from)
	}
}

// seeOthers records the VMs that the one that asks names, which is confirmed.
func (r *Request) seeOthers(id api.FilterID, others []VM, now time.Time) {
	named := make([]VM, 0, len(others))
	for _, other := range others {
		other.Name = publicName(other.Name)
		switch {
		case other.Name == r.vm.key.name:
		case other.Gone:
			r.left(id, other.Name, now)
		default:
			named = append(named, other)
		}
	}
	r.forgetUnnamed(id, named)
	for _, other := range named {
		r.others = append(r.others, r.seeOther(id, other, now))
	}
}

// forgetUnnamed makes room for new VMs among the api.MaxVMs that are remembered
// because this one names them: those that it names no more go, the ones that have stopped first.
func (r *Request) forgetUnnamed(id api.FilterID, named []VM) {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	set := r.shard.filters[id]
	names, count := make(map[string]bool, len(named)), 0
	for _, other := range named {
		if !names[other.Name] && set.get(vmKey{other.Name, r.caller.Address}) == nil {
			count++
		}
		names[other.Name] = true
	}
	if count == 0 || set == nil {
		return
	}
	var unnamed []*vm
	for _, v := range set.list {
		if v.namedBy != r.vm {
			continue
		}
		if count++; !names[v.key.name] {
			unnamed = append(unnamed, v)
		}
	}
	if count <= api.MaxVMs {
		return
	}
	slices.SortFunc(unnamed, func(a, b *vm) int {
		if gone := a.state == VMGone; gone != (b.state == VMGone) {
			return map[bool]int{true: -1, false: 1}[gone]
		}
		return cmp.Or(a.asked.Compare(b.asked), cmp.Compare(a.key.name, b.key.name))
	})
	forget := map[*vm]bool{}
	for _, v := range unnamed[:min(count-api.MaxVMs, len(unnamed))] {
		forget[v] = true
	}
	r.fleet.removeIf(r.shard, id, func(v *vm) bool { return forget[v] })
}
