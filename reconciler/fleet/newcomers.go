package fleet

import (
	"container/list"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Bounds of what is kept of requests that may be anybody's, together and of one
// address: entries, and their size in bytes. newcomerTime is how long an entry
// is kept after the answer.
const (
	maxNewcomers       = 50_000
	maxNewcomersOf     = 10_000
	maxNewcomerBytes   = 32 << 20
	maxNewcomerBytesOf = 8 << 20
	newcomerTime       = time.Minute
)

// bitsOfANetwork are those that the IPv6 addresses of one host have in common.
const bitsOfANetwork = 64

// newcomers are the VMs that have asked once on a connection. Those that were
// answered, and have not asked again, make room for others.
type newcomers struct {
	mu    sync.Mutex
	known map[newcomerKey]*newcomer
	// from counts and lists them by their address.
	from map[netip.Prefix]*address
	// ended lists those that were answered, the first answered first.
	ended list.List
	size  int64
}

// newcomerKey is a VM on a connection.
type newcomerKey struct {
	id         api.FilterID
	name       string
	connection uint64
}

// newcomer is one request of a VM.
type newcomer struct {
	key    newcomerKey
	from   *address
	number uint64
	state  VMState
	digest string
	// given is the digest of the policies that it was answered with, or empty.
	given        string
	asked, ended time.Time
	retry        time.Duration
	// inEnded and inAddress are its places in the lists, or nil.
	inEnded, inAddress *list.Element
}

// address is where newcomers ask from.
type address struct {
	prefix netip.Prefix
	count  int
	size   int64
	ended  list.List
}

// source is what newcomers are counted by: an address or, of IPv6, a network.
func source(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = bitsOfANetwork
	}
	prefix, _ := addr.Prefix(bits) // It fails for no address, whose prefix is the zero one.
	return prefix
}

// answered reports whether a newcomer was answered; given is the digest of the
// policies that it got, or empty.
func (n *newcomers) answered(key newcomerKey) (given string, is bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one := n.known[key]
	if one == nil || one.state != VMAnswered {
		return "", false
	}
	return one.given, true
}

// ask records a first request, or another one before the answer to the first.
// It returns nil if there is no room.
func (n *newcomers) ask(key newcomerKey, from netip.Prefix, digest string, now time.Time) (*newcomer, uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	one := n.known[key]
	if one == nil {
		if one = n.add(key, from, digest, now); one == nil {
			return nil, 0
		}
	}
	if one.digest != digest {
		more := textSize(digest) - textSize(one.digest)
		n.size, one.from.size = n.size+more, one.from.size+more
		one.digest = strings.Clone(digest)
	}
	one.state, one.asked = VMWaiting, now
	one.number++
	return one, one.number
}

func (n *newcomers) add(key newcomerKey, from netip.Prefix, digest string, now time.Time) *newcomer {
	if n.known == nil {
		n.known, n.from = map[newcomerKey]*newcomer{}, map[netip.Prefix]*address{}
	}
	n.expire(now)
	of := n.from[from]
	if of == nil {
		of = &address{prefix: from}
	}
	size := sizeOf(key.id, key.name, digest)
	for of.count >= maxNewcomersOf || of.size+size > maxNewcomerBytesOf {
		if !n.evict(&of.ended) {
			return nil
		}
	}
	for len(n.known) >= maxNewcomers || n.size+size > maxNewcomerBytes {
		if !n.evict(&n.ended) {
			return nil
		}
	}
	key.id, key.name = cloneID(key.id), strings.Clone(key.name)
	one := &newcomer{key: key, from: of, digest: strings.Clone(digest)}
	n.known[key], n.from[from] = one, of
	of.count, of.size, n.size = of.count+1, of.size+size, n.size+size
	return one
}

// expire drops those that were answered a while ago.
func (n *newcomers) expire(now time.Time) {
	for first := n.ended.Front(); first != nil && now.Sub(first.Value.(*newcomer).ended) > newcomerTime; first = n.ended.Front() {
		n.drop(first.Value.(*newcomer))
	}
}

// evict drops the first of a list. It is false if there is none.
func (n *newcomers) evict(ended *list.List) bool {
	first := ended.Front()
	if first == nil {
		return false
	}
	n.drop(first.Value.(*newcomer))
	return true
}

func (n *newcomers) remove(key newcomerKey) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if one := n.known[key]; one != nil {
		n.drop(one)
	}
}

func (n *newcomers) drop(one *newcomer) {
	n.unlist(one)
	delete(n.known, one.key)
	size := sizeOf(one.key.id, one.key.name, one.digest)
	n.size -= size
	one.from.count, one.from.size = one.from.count-1, one.from.size-size
	if one.from.count == 0 {
		delete(n.from, one.from.prefix)
	}
}

func (n *newcomers) unlist(one *newcomer) {
	if one.inEnded != nil {
		n.ended.Remove(one.inEnded)
		one.from.ended.Remove(one.inAddress)
		one.inEnded, one.inAddress = nil, nil
	}
}

// end records that a newcomer's request ended. One that left cannot ask again
// on its connection, and is dropped.
func (n *newcomers) end(one *newcomer, number uint64, state VMState, given string, retry time.Duration, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known[one.key] != one || one.number != number {
		return
	}
	if state == VMGone {
		n.drop(one)
		return
	}
	one.state, one.given, one.retry, one.ended = state, given, retry, now
	n.unlist(one)
	one.inEnded, one.inAddress = n.ended.PushBack(one), one.from.ended.PushBack(one)
}

// seen is all newcomers, in no order.
func (n *newcomers) seen(now time.Time) []FilterSeen {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expire(now)
	filters := make([]FilterSeen, 0, len(n.known))
	for key, one := range n.known {
		ago := now.Sub(one.asked)
		seen := VMSeen{ID: key.name, Claimed: true, Unproven: true, State: one.state, Digest: one.digest, FirstAgo: ago, AskedAgo: ago, SinceAgo: ago, ConnectedAgo: ago}
		if one.state != VMWaiting {
			seen.EndedAgo, seen.Retry = now.Sub(one.ended), one.retry
		}
		filters = append(filters, FilterSeen{FilterID: key.id, VMs: []VMSeen{seen}})
	}
	return filters
}
