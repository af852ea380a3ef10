package etcd

import (
	"cmp"
	"slices"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// drifted says whether the mirror holds anything else than the state. It is
// cheap enough to be asked at every change.
func (m *mirror) drifted(state *reconciler.State, epoch reconciler.Epoch, renewed bool) bool {
	if state == nil {
		return m.set.Len() > 0 || len(m.foreign) > 0
	}
	return len(m.foreign) > 0 || m.set != state.Set && m.set.Digest() != state.Set.Digest() ||
		m.headDrift(state, renewed) != "" || m.epochDrift(epoch) != "" || len(m.originDrift(state)) > 0
}

// drift lists what differs between the state and the mirror: all of it is
// counted, the first items by key are listed. The epoch is the one in force;
// renewed says that the head, if there is one, is of an earlier life.
func (m *mirror) drift(state *reconciler.State, epoch reconciler.Epoch, renewed bool) (int, []reconciler.DriftItem) {
	var items []reconciler.DriftItem
	published := schema.NewSet()
	if state != nil {
		published = state.Set
	}
	for _, change := range schema.Diff(published, m.set) {
		if change.SameMeaning() {
			continue
		}
		item := reconciler.DriftItem{Name: change.Name, Key: m.keys.policy(change.Name), Kind: reconciler.Modified}
		_, foreign := m.foreign[change.Name]
		switch {
		case change.Old == nil:
			item.Kind = reconciler.Extra
		case change.New == nil && !foreign:
			item.Kind = reconciler.Missing
		}
		items = append(items, item)
	}
	for name := range m.foreign {
		if published.Get(name) == nil {
			items = append(items, reconciler.DriftItem{Name: name, Key: m.keys.policy(name), Kind: reconciler.Extra})
		}
	}
	if state != nil {
		if kind := m.headDrift(state, renewed); kind != "" {
			items = append(items, reconciler.DriftItem{Key: m.keys.head(), Kind: kind})
		}
		if kind := m.epochDrift(epoch); kind != "" {
			items = append(items, reconciler.DriftItem{Key: m.keys.epoch(), Kind: kind})
		}
		items = append(items, m.originDrift(state)...)
	}
	slices.SortFunc(items, func(a, b reconciler.DriftItem) int { return cmp.Compare(a.Key, b.Key) })
	total := len(items)
	if total > reconciler.MaxDriftItems {
		items = slices.Clone(items[:reconciler.MaxDriftItems])
	}
	return total, items
}

func (m *mirror) headDrift(state *reconciler.State, renewed bool) reconciler.DriftKind {
	switch {
	case !m.head.present || renewed:
		return reconciler.Missing
	case !m.head.valid || !sameHead(m.head.value, state.Head):
		return reconciler.Modified
	}
	return ""
}

func sameHead(a, b reconciler.Head) bool {
	return a.Commit == b.Commit && a.Digest == b.Digest && a.Count == b.Count && a.At.Equal(b.At)
}

func (m *mirror) epochDrift(epoch reconciler.Epoch) reconciler.DriftKind {
	switch {
	case !m.epoch.present:
		return reconciler.Missing
	case !m.epoch.valid || m.epoch.value != epoch:
		return reconciler.Modified
	}
	return ""
}

// originDrift lists the buckets whose origins are not the state's.
func (m *mirror) originDrift(state *reconciler.State) []reconciler.DriftItem {
	var items []reconciler.DriftItem
	for bucket := range schema.Buckets {
		if kind := m.origins[bucket].compare(state.Set.Bucket(bucket)); kind != "" {
			items = append(items, reconciler.DriftItem{Key: m.keys.origins(bucket), Kind: kind})
		}
	}
	return items
}

// compare says how a bucket's origins differ from those of a set's bucket. It
// remembers the answer for as long as neither changes.
func (b *bucketOrigins) compare(expected []*schema.Entry) reconciler.DriftKind {
	if !b.present {
		if len(expected) > 0 {
			return reconciler.Missing
		}
		return ""
	}
	if len(expected) == 0 {
		return reconciler.Extra
	}
	// Buckets of sets are never changed, so the first entry's place tells one from another.
	if b.compared != &expected[0] {
		b.compared, b.differs = &expected[0], !b.same(expected)
	}
	if b.differs {
		return reconciler.Modified
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
