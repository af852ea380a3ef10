package etcd

import (
	"cmp"
	"slices"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// driftState says how what etcd holds compares with the verified state.
type driftState int

const (
	// driftUnknown: there is nothing to compare. etcd has not been read, or its
	// head is of a version whose digests this program cannot compute.
	driftUnknown driftState = iota
	// driftNone: etcd holds the state, or the leader is publishing another one
	// and etcd held the state before.
	driftNone
	// driftDetected: etcd holds something else.
	driftDetected
)

// driftTracker is what a replica knows about drift.
type driftTracker struct {
	state driftState
	// since is when the present drift was first seen; nil unless driftDetected.
	since *time.Time
	// listed is the drift that the view shows, as of basis and listedAt; of no
	// meaning unless driftDetected.
	listed   api.Drift
	basis    driftBasis
	listedAt time.Time
}

// relistAfter is the least time between two lists of the same drift if it is
// more than a view lists: each list costs as much as there is drift, and
// another writer may write thousands of keys one by one.
const relistAfter = time.Second

// driftBasis is everything that a list of drift depends on.
type driftBasis struct {
	cache    *cache
	contents int
	state    *reconciler.State
	epoch    reconciler.Epoch
	replaced bool
	since    *time.Time
}

// updateDrift compares etcd with the state. It lists nothing, and so is cheap
// enough for every event.
func (t *tracker) updateDrift(now time.Time) {
	if t.drift.state == driftNone && t.publicationPending(now) {
		// What the leader has written of its publication so far is no drift.
		return
	}
	switch {
	case !t.comparable():
		t.drift.state, t.drift.since = driftUnknown, nil
	case !t.drifted():
		t.drift.state, t.drift.since = driftNone, nil
	case t.drift.state != driftDetected:
		t.drift.state, t.drift.since = driftDetected, &now
	}
}

// comparable reports whether there is something to compare the cache with.
func (t *tracker) comparable() bool {
	if t.state == nil {
		return !t.cache.head.valid
	}
	return !t.cache.head.valid || comparableDigest(t.cache.head.value.Digest)
}

func (t *tracker) drifted() bool {
	return t.cache.drifted(t.state, t.epoch.value, t.dataReplaced())
}

// listDrift lists the drift unless the list is up to date, or not due yet. It
// reports whether it listed it.
func (t *tracker) listDrift(now time.Time) bool {
	if t.drift.state != driftDetected {
		return false
	}
	basis := t.driftBasis()
	if basis == t.drift.basis || t.relistIn(now) > 0 {
		return false
	}
	total, items := t.cache.drift(t.state, t.epoch.value, t.dataReplaced())
	t.drift.listed = api.Drift{Status: api.DriftDetected, Since: t.drift.since, Total: total, Items: items}
	t.drift.basis, t.drift.listedAt = basis, now
	return true
}

// relistIn is how long it takes until the drift may be listed again; 0 if it
// may be, or the list is up to date.
func (t *tracker) relistIn(now time.Time) time.Duration {
	d := &t.drift
	if d.state != driftDetected || d.basis.since != d.since || d.listed.Total <= api.MaxDriftItems || d.basis == t.driftBasis() {
		return 0
	}
	return max(d.listedAt.Add(relistAfter).Sub(now), 0)
}

func (t *tracker) driftBasis() driftBasis {
	return driftBasis{t.cache, t.cache.contents, t.state, t.epoch.value, t.dataReplaced(), t.drift.since}
}

// driftView is the drift for the view.
func (t *tracker) driftView() api.Drift {
	switch {
	case !t.health.Healthy || t.drift.state == driftUnknown:
		return api.Drift{Status: api.DriftUnknown, Items: []api.DriftItem{}}
	case t.drift.state == driftNone:
		return api.Drift{Status: api.DriftNone, Items: []api.DriftItem{}}
	}
	return t.drift.listed
}

// drifted reports whether etcd holds anything else than the state.
func (c *cache) drifted(state *reconciler.State, epoch reconciler.Epoch, replaced bool) bool {
	if state == nil {
		return c.set.Len() > 0 || len(c.foreign.names) > 0 || c.forged() != ""
	}
	return len(c.foreign.names) > 0 || c.set != state.Set && c.set.Digest() != state.Set.Digest() ||
		c.headDrift(state, replaced) != "" || c.epochDrift(state, epoch) != "" || len(c.originDrift(state)) > 0
}

// drift lists what differs between the state and etcd: all of it is counted,
// the first items by key are listed. The epoch is the one in force; replaced
// says that etcd's data, and so its head, are of another one.
func (c *cache) drift(state *reconciler.State, epoch reconciler.Epoch, replaced bool) (int, []api.DriftItem) {
	var list driftList
	published := schema.NewSet()
	if state != nil {
		published = state.Set
	}
	for _, change := range schema.Diff(published, c.set) {
		if change.OriginOnly() {
			continue
		}
		item := api.DriftItem{Name: change.Name, Key: c.keys.policy(change.Name), Kind: api.Modified}
		foreign := c.foreign.has(change.Name)
		switch {
		case change.Old == nil:
			item.Kind = api.Extra
		case change.New == nil && !foreign:
			item.Kind = api.Missing
		}
		list.add(item)
	}
	for name := range c.foreign.names {
		if published.Get(name) == nil {
			list.add(api.DriftItem{Name: name, Key: c.keys.policy(name), Kind: api.Extra})
		}
	}
	if kind := c.headDrift(state, replaced); kind != "" {
		list.add(api.DriftItem{Key: c.keys.head(), Kind: kind})
	}
	if kind := c.epochDrift(state, epoch); kind != "" {
		list.add(api.DriftItem{Key: c.keys.epoch(), Kind: kind})
	}
	if state != nil {
		for _, item := range c.originDrift(state) {
			list.add(item)
		}
	}
	list.cut()
	return list.total, slices.Clip(list.items)
}

// driftList counts items, and keeps the first by key.
type driftList struct {
	items []api.DriftItem
	total int
}

func (l *driftList) add(item api.DriftItem) {
	l.items = append(l.items, item)
	l.total++
	if len(l.items) >= 8*api.MaxDriftItems {
		l.cut()
	}
}

func (l *driftList) cut() {
	slices.SortFunc(l.items, func(a, b api.DriftItem) int { return cmp.Compare(a.Key, b.Key) })
	l.items = l.items[:min(len(l.items), api.MaxDriftItems)]
}

func (c *cache) headDrift(state *reconciler.State, replaced bool) api.DriftKind {
	switch {
	case c.head.problem != nil:
		return api.Forged
	case state == nil:
	case !c.head.present || c.head.placeholder || replaced:
		return api.Missing
	case !sameHead(c.head.value, state.Head):
		return api.Modified
	}
	return ""
}

func sameHead(a, b reconciler.Head) bool {
	return a.Commit == b.Commit && a.Digest == b.Digest && a.Count == b.Count && a.At.Equal(b.At)
}

func (c *cache) epochDrift(state *reconciler.State, epoch reconciler.Epoch) api.DriftKind {
	switch {
	case c.epoch.problem != nil:
		return api.Forged
	case state == nil:
	case !c.epoch.present:
		return api.Missing
	case c.epoch.value != epoch:
		return api.Modified
	}
	return ""
}

// originDrift lists the buckets whose origins are not the state's.
func (c *cache) originDrift(state *reconciler.State) []api.DriftItem {
	var items []api.DriftItem
	for bucket := range schema.Buckets {
		if kind := c.origins[bucket].compare(state.Set.Bucket(bucket)); kind != "" {
			items = append(items, api.DriftItem{Key: c.keys.origins(bucket), Kind: kind})
		}
	}
	return items
}

// compare says how a bucket's origins differ from those of a set's bucket, or
// "" if they do not. It remembers the answer until one of the two changes.
func (b *bucketOrigins) compare(expected []*schema.Entry) api.DriftKind {
	if !b.present {
		if len(expected) > 0 {
			return api.Missing
		}
		return ""
	}
	if len(expected) == 0 {
		return api.Extra
	}
	// Buckets of sets are immutable, so the address of the first entry identifies one.
	if b.compared != &expected[0] {
		b.compared, b.differs = &expected[0], !b.same(expected)
	}
	if b.differs {
		return api.Modified
	}
	return ""
}

func (b *bucketOrigins) same(expected []*schema.Entry) bool {
	if !b.valid || len(b.byName) != len(expected) {
		return false
	}
	for _, entry := range expected {
		if origin, ok := b.byName[entry.Name()]; !ok || origin != entry.Origin {
			return false
		}
	}
	return true
}
