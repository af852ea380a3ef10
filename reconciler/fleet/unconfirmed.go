package fleet

import (
	"container/list"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Bounds of unconfirmed VMs, in total and per source address: entries, and their
// size in bytes. unconfirmedTTL is how long an entry is kept after the answer.
const (
	maxUnconfirmed               = 50_000
	maxUnconfirmedPerSource      = 10_000
	maxUnconfirmedBytes          = 32 << 20
	maxUnconfirmedBytesPerSource = 8 << 20
	unconfirmedTTL               = time.Minute
)

// ipv6PrefixBits is the length of the prefix that one host's IPv6 addresses share.
const ipv6PrefixBits = 64

// unconfirmedVMs are those that have sent one request on a connection: anyone can
// do that in a VM's name, and a second request confirms it. Those that were
// answered, and have not asked again, are evicted first.
type unconfirmedVMs struct {
	mu    sync.Mutex
	known map[unconfirmedKey]*unconfirmedVM
	// sources counts and lists them by their source address.
	sources map[netip.Prefix]*source
	// ended lists those that were answered, the first answered first.
	ended list.List
	size  int64
}

// unconfirmedKey is a VM on a connection.
type unconfirmedKey struct {
	id         api.FilterID
	name       string
	connection uint64
}

// unconfirmedVM is a VM's only request on a connection.
type unconfirmedVM struct {
	key     unconfirmedKey
	address netip.Addr
	from    *source
	number  uint64
	state   VMState
	digest  string
	// given is the digest of the policies that it was answered with, or empty.
	given        string
	asked, ended time.Time
	retry        time.Duration
	// inEnded and inSource are its places in the lists, or nil.
	inEnded, inSource *list.Element
}

// source is where unconfirmed VMs ask from.
type source struct {
	prefix netip.Prefix
	count  int
	size   int64
	ended  list.List
}

// sourcePrefix is what unconfirmed VMs are counted by: an IPv4 address, or the
// network of an IPv6 one.
func sourcePrefix(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = ipv6PrefixBits
	}
	prefix, _ := addr.Prefix(bits) // It fails for no address, whose prefix is the zero one.
	return prefix
}

// answered reports whether an unconfirmed VM's request was answered; given is the
// digest of the policies that it got, or empty.
func (u *unconfirmedVMs) answered(key unconfirmedKey) (given string, is bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	entry := u.known[key]
	if entry == nil || entry.state != VMAnswered {
		return "", false
	}
	return entry.given, true
}

// ask records a first request, or another one before the answer to the first.
// It returns nil if there is no room.
func (u *unconfirmedVMs) ask(key unconfirmedKey, address netip.Addr, digest string, now time.Time) (*unconfirmedVM, uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	entry := u.known[key]
	if entry != nil && entry.digest != digest {
		// Its size is another one.
		u.drop(entry)
		entry = nil
	}
	if entry == nil {
		if entry = u.add(key, address, digest, now); entry == nil {
			return nil, 0
		}
	}
	entry.state, entry.asked = VMWaiting, now
	entry.number++
	return entry, entry.number
}

func (u *unconfirmedVMs) add(key unconfirmedKey, address netip.Addr, digest string, now time.Time) *unconfirmedVM {
	if u.known == nil {
		u.known, u.sources = map[unconfirmedKey]*unconfirmedVM{}, map[netip.Prefix]*source{}
	}
	u.expire(now)
	from := sourcePrefix(address)
	of := u.sources[from]
	if of == nil {
		of = &source{prefix: from}
	}
	size := sizeOf(key.id, key.name, digest)
	for of.count >= maxUnconfirmedPerSource || of.size+size > maxUnconfirmedBytesPerSource {
		if !u.evict(&of.ended) {
			return nil
		}
	}
	for len(u.known) >= maxUnconfirmed || u.size+size > maxUnconfirmedBytes {
		if !u.evict(&u.ended) {
			return nil
		}
	}
	key.id, key.name = cloneID(key.id), strings.Clone(key.name)
	entry := &unconfirmedVM{key: key, address: address, from: of, digest: strings.Clone(digest)}
	u.known[key], u.sources[from] = entry, of
	of.count, of.size, u.size = of.count+1, of.size+size, u.size+size
	return entry
}

// expire drops those that were answered longer ago than unconfirmedTTL.
func (u *unconfirmedVMs) expire(now time.Time) {
	for first := u.ended.Front(); first != nil && now.Sub(first.Value.(*unconfirmedVM).ended) > unconfirmedTTL; first = u.ended.Front() {
		u.drop(first.Value.(*unconfirmedVM))
	}
}

// evict drops the first of a list. It is false if there is none.
func (u *unconfirmedVMs) evict(ended *list.List) bool {
	first := ended.Front()
	if first == nil {
		return false
	}
	u.drop(first.Value.(*unconfirmedVM))
	return true
}

func (u *unconfirmedVMs) remove(key unconfirmedKey) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if entry := u.known[key]; entry != nil {
		u.drop(entry)
	}
}

func (u *unconfirmedVMs) drop(entry *unconfirmedVM) {
	u.unlist(entry)
	delete(u.known, entry.key)
	size := sizeOf(entry.key.id, entry.key.name, entry.digest)
	u.size -= size
	entry.from.count, entry.from.size = entry.from.count-1, entry.from.size-size
	if entry.from.count == 0 {
		delete(u.sources, entry.from.prefix)
	}
}

func (u *unconfirmedVMs) unlist(entry *unconfirmedVM) {
	if entry.inEnded != nil {
		u.ended.Remove(entry.inEnded)
		entry.from.ended.Remove(entry.inSource)
		entry.inEnded, entry.inSource = nil, nil
	}
}

// end records that an unconfirmed VM's request ended. A VM that closed its
// connection cannot ask again on it, and is dropped.
func (u *unconfirmedVMs) end(entry *unconfirmedVM, number uint64, state VMState, given string, retry time.Duration, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.known[entry.key] != entry || entry.number != number {
		return
	}
	if state == VMGone {
		u.drop(entry)
		return
	}
	entry.state, entry.given, entry.retry, entry.ended = state, given, retry, now
	u.unlist(entry)
	entry.inEnded, entry.inSource = u.ended.PushBack(entry), entry.from.ended.PushBack(entry)
}

// seen is all unconfirmed VMs, in no order.
func (u *unconfirmedVMs) seen(now time.Time) []FilterSeen {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.expire(now)
	filters, vms := make([]FilterSeen, 0, len(u.known)), make([]VMSeen, 0, len(u.known))
	for key, entry := range u.known {
		ago := now.Sub(entry.asked)
		seen := VMSeen{ID: key.name, Address: entry.address, Claimed: true, Unproven: true, State: entry.state, Digest: entry.digest, FirstAgo: ago, AskedAgo: ago, SinceAgo: ago, ConnectedAgo: ago}
		if entry.state != VMWaiting {
			seen.EndedAgo, seen.Retry = now.Sub(entry.ended), entry.retry
		}
		vms = append(vms, seen)
		filters = append(filters, FilterSeen{FilterID: key.id, VMs: vms[len(vms)-1 : len(vms) : len(vms)]})
	}
	return filters
}
