package fleet

import (
	"net/netip"
	"slices"
)

// vmKey is a VM of a filter and the address that it asks from. Requests in one
// VM's name from two addresses may be of two clients: merge decides.
type vmKey struct {
	name    string
	address netip.Addr
}

// vmSet is the VMs of a filter. Nearly all filters have a few, for which a map
// would take more memory than the VMs. Its shard's lock guards it.
type vmSet struct {
	list []*vm
	// index is nil while there are at most maxUnindexed.
	index map[vmKey]*vm
}

const maxUnindexed = 16

// get returns nil if the set has no such VM, or is nil.
func (s *vmSet) get(key vmKey) *vm {
	switch {
	case s == nil:
		return nil
	case s.index != nil:
		return s.index[key]
	}
	for _, v := range s.list {
		if v.key == key {
			return v
		}
	}
	return nil
}

// add adds a VM that the set does not have.
func (s *vmSet) add(v *vm) {
	s.list = append(s.list, v)
	switch {
	case s.index != nil:
		s.index[v.key] = v
	case len(s.list) > maxUnindexed:
		s.index = make(map[vmKey]*vm, len(s.list))
		for _, v := range s.list {
			s.index[v.key] = v
		}
	}
}

func (s *vmSet) removeIf(is func(*vm) bool) {
	s.list = slices.DeleteFunc(s.list, func(v *vm) bool {
		remove := is(v)
		if remove {
			delete(s.index, v.key)
		}
		return remove
	})
	if len(s.list) <= maxUnindexed {
		s.index = nil
	}
}
