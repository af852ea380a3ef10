package fleet

import (
	"fmt"
	"iter"
	"net/netip"
	"time"
)

// owners are the addresses, at most one of each IP version, that a filter asks
// from; those of one IPv6 network count as one. There are two only if VMs began to ask
// from both at about the same time, or one VM asks from both. Anybody can send requests in a
// filter's name. So while VMs of it that are proven still ask, requests from
// another address that began only later do not count: they neither raise an
// alarm nor hide one.
//
// Once the VMs at an address ask no more, another address takes their place: a
// pod that is replaced by one of the same name has another one. In Kubernetes, VMs
// that asked already when the pod before was deleted have no claim to its name, and
// do not count once the new pod's VMs ask. And a VM that
// asked before counts at any address once it does not ask at the old one: the
// proxies between it and hfid may have several.
type owners struct {
	// several says that there are several addresses.
	several bool
	v4, v6  owner
	// also are addresses of the owner's other IP version that the filter asks from too.
	also map[netip.Prefix]bool
	// elsewhere are the VMs that count, and ask no more from where they asked.
	elsewhere map[string]bool
}

// owner is an address whose VMs are proven and still ask. It is the zero value if there is none.
type owner struct {
	address netip.Prefix
	// since is how long ago a VM of the filter first asked from it, less the
	// time within which it is not clear who was first.
	since time.Duration
}

// differ reports whether two addresses of one IP version are not the same.
func differ(a, b netip.Prefix) bool {
	return a != b && a.IsValid() && b.IsValid() && a.Addr().Is4() == b.Addr().Is4()
}

func (e *evaluation) owners(parts []part) (found owners) {
	var first netip.Addr
	for _, part := range parts {
		for i := range part.vms {
			switch address := part.vms[i].Address; {
			case !address.IsValid():
			case !first.IsValid():
				first = address
			case address != first:
				found.several = true
			}
		}
	}
	if !found.several {
		return found
	}
	// Those whose VMs are proven: how long ago one first asked, and whether one still does.
	ages, asking := map[netip.Prefix]time.Duration{}, map[netip.Prefix]bool{}
	for vm := range each(parts) {
		if from := sourcePrefix(vm.Address); !vm.Unproven && !vm.Outlived && from.IsValid() {
			ages[from] = max(ages[from], vm.FirstAgo)
			asking[from] = asking[from] || !e.overdue(&vm)
		}
	}
	for from, age := range ages {
		of := found.of(from)
		since := age - e.fleet.SettleTime
		// The choice must not depend on the order of the map.
		if asking[from] && (!of.address.IsValid() || since > of.since || since == of.since && from.Addr().Less(of.address.Addr())) {
			*of = owner{from, since}
		}
	}
	found.chooseVersion(parts)
	elsewhere := map[string]bool{}
	for vm := range each(parts) {
		if !vm.Claimed && !found.foreign(&vm) {
			others, known := elsewhere[vm.ID]
			elsewhere[vm.ID] = e.overdue(&vm) && (others || !known)
		}
	}
	found.elsewhere = elsewhere
	return found
}

// chooseVersion drops the owner of the IP version that began later, unless it is known
// to be the same filter.
func (o *owners) chooseVersion(parts []part) {
	first, second := &o.v4, &o.v6
	if !first.address.IsValid() || second.address.IsValid() && second.since > first.since {
		first, second = second, first
	}
	if !first.address.IsValid() {
		return
	}
	ids := map[string]bool{}
	for vm := range each(parts) {
		if !vm.Claimed && sourcePrefix(vm.Address) == first.address {
			ids[vm.ID] = true
		}
	}
	o.also = map[netip.Prefix]bool{}
	for vm := range each(parts) {
		from := sourcePrefix(vm.Address)
		if from.IsValid() && !vm.Claimed && !vm.Outlived && from.Addr().Is4() != first.address.Addr().Is4() && (ids[vm.ID] || vm.FirstAgo >= first.since) {
			o.also[from] = true
		}
	}
	if !o.also[second.address] {
		*second = owner{}
	}
}

// each is all VMs in the parts, with their ages as they are now.
func each(parts []part) iter.Seq[VMSeen] {
	return func(yield func(VMSeen) bool) {
		for _, part := range parts {
			for i := range part.vms {
				if !yield(part.vms[i].older(part.age)) {
					return
				}
			}
		}
	}
}

func (o *owners) of(from netip.Prefix) *owner {
	if from.Addr().Is4() {
		return &o.v4
	}
	return &o.v6
}

// foreign reports whether a request does not count.
func (o *owners) foreign(vm *VMSeen) bool {
	if !o.several || o.elsewhere[vm.ID] {
		return false
	}
	from := sourcePrefix(vm.Address)
	of := o.against(from)
	return from.IsValid() && !o.also[from] && of.address.IsValid() && from != of.address && (vm.Outlived || vm.FirstAgo < of.since)
}

// against is the owner beside which requests from an address may not count: that of
// its IP version, or else the only one.
func (o *owners) against(from netip.Prefix) *owner {
	of := o.of(from)
	if !of.address.IsValid() && of == &o.v4 {
		return &o.v6
	}
	if !of.address.IsValid() {
		return &o.v4
	}
	return of
}

// message names an address whose requests do not count, or is empty.
func (o *owners) message(parts []part) string {
	if !o.several {
		return ""
	}
	var foreign netip.Addr
	for vm := range each(parts) {
		if !vm.Claimed && vm.State != VMGone && o.foreign(&vm) && (!foreign.IsValid() || vm.Address.Less(foreign)) {
			foreign = vm.Address
		}
	}
	if !foreign.IsValid() {
		return ""
	}
	return fmt.Sprintf("requests in its name from %s do not count, because it asks from %s", foreign, o.against(sourcePrefix(foreign)).address.Addr())
}
