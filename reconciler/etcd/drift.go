package etcd

import (
	"cmp"
	"slices"

	"github.com/boifi/hfi/internal/api"
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
func (m *mirror) drift(state *reconciler.State, epoch reconciler.Epoch, renewed bool) (int, []api.DriftItem) {
	var items []api.DriftItem
	published := schema.NewSet()
	if state != nil {
		published = state.Set
	}
	for _, change := range schema.Diff(published, m.set) {
		if change.SameMeaning() {
			continue
		}
		item := api.DriftItem{Name: change.Name, Key: m.keys.policy(change.Name), Kind: api.Modified}
		_, foreign := m.foreign[change.Name]
		switch {
		case change.Old == nil:
			item.Kind = api.Extra
		case change.New == nil && !foreign:
			item.Kind = api.Missing
		}
		items = append(items, item)
	}
	for name := range m.foreign {
		if published.Get(name) == nil {
			items = append(items, api.DriftItem{Name: name, Key: m.keys.policy(name), Kind: api.Extra})
		}
	}
	if state != nil {
		if kind := m.headDrift(state, renewed); kind != "" {
			items = append(items, api.DriftItem{Key: m.keys.head(), Kind: kind})
		}
		if kind := m.epochDrift(epoch); kind != "" {
			items = append(items, api.DriftItem{Key: m.keys.epoch(), Kind: kind})
		}
		items = append(items, m.originDrift(state)...)
	}
	slices.SortFunc(items, func(a, b api.DriftItem) int { return cmp.Compare(a.Key, b.Key) })
	total := len(items)
	if total > api.MaxDriftItems {
		items = slices.Clone(items[:api.MaxDriftItems])
	}
	return total, items
}

func (m *mirror) headDrift(state *reconciler.State, renewed bool) api.DriftKind {
	switch {
	case !m.head.present || renewed:
		return api.Missing
	case !m.head.valid || !sameHead(m.head.value, state.Head):
		return api.Modified
	}
	return ""
}

func sameHead(a, b reconciler.Head) bool {
	return a.Commit == b.Commit && a.Digest == b.Digest && a.Count == b.Count && a.At.Equal(b.At)
}

func (m *mirror) epochDrift(epoch reconciler.Epoch) api.DriftKind {
	switch {
	case !m.epoch.present:
		return api.Missing
	case !m.epoch.valid || m.epoch.value != epoch:
		return api.Modified
	}
	return ""
}

// originDrift lists the buckets whose origins are not the state's.
func (m *mirror) originDrift(state *reconciler.State) []api.DriftItem {
	var items []api.DriftItem
	for bucket := range schema.Buckets {
		if kind := m.origins[bucket].compare(state.Set.Bucket(bucket)); kind != "" {
			items = append(items, api.DriftItem{Key: m.keys.origins(bucket), Kind: kind})
		}
	}
	return items
}

// compare says how a bucket's origins differ from those of a set's bucket. It
// remembers the answer for as long as neither changes.
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
	// Buckets of sets are never changed, so the first entry's place tells one from another.
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
