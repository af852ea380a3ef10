package etcd

import (
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Limits of one transaction, below etcd's own of 128 operations and 1.5 MiB.
const (
	maxOps   = 100
	maxBytes = 1 << 20
	// maxValue is what one key can hold beside the rest of a request.
	maxValue = 1_400_000
	// opBytes is about what an operation weighs besides its key and value.
	opBytes = 64
	// maxTrim bounds how many old entries of the history go with a new one.
	maxTrim = 50
)

// plan is what has to be written for a publication.
type plan struct {
	// nothing: etcd holds it all, and it was verified.
	nothing      bool
	transactions [][]clientv3.Op
	// unmoved is the condition that the head is the one that the plan was made
	// on, so that a transaction that was delayed on its way cannot land on a
	// later publication.
	unmoved clientv3.Cmp
}

// plan compares what etcd holds with a publication. The caller holds the store's mu.
func (t *Term) plan(publication reconciler.Publication) (*plan, error) {
	s, m := t.store, t.store.mirror
	changes, err := m.changeOps(publication.Set)
	if err != nil {
		return nil, err
	}
	target := publication.Set
	headStands := m.head.valid && m.head.value.Commit == publication.Commit && verified(m.head.value, target) &&
		s.state != nil && s.state.Revision == reconciler.Revision{Epoch: s.epoch, Number: m.head.modRevision} && sameHead(m.head.value, s.state.Head)
	epochStands := m.epoch.valid && m.epoch.value == s.epoch
	p := &plan{unmoved: clientv3.Compare(clientv3.ModRevision(s.keys.head()), "=", m.head.modRevision)}
	if len(changes) == 0 && headStands && epochStands && m.publishing == 0 {
		p.nothing = true
		return p, nil
	}
	head := reconciler.Head{Commit: publication.Commit, Digest: target.Digest(), Count: target.Len(), At: s.Clock().UTC()}
	if headStands {
		// A repair publishes nothing new.
		head = m.head.value
	}
	last := []clientv3.Op{clientv3.OpPut(s.keys.head(), encodeHead(head))}
	if !epochStands {
		last = append(last, clientv3.OpPut(s.keys.epoch(), encode(s.epoch)))
	}
	last = append(last, m.historyOps(publication.Entry)...)
	p.transactions = pack(changes, last, t.markOp(), clientv3.OpDelete(s.keys.publishing()), m.publishing != 0)
	return p, nil
}

// changeOps are the writes that turn the policies and origins that etcd
// holds into the target's.
func (m *mirror) changeOps(target *schema.Set) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	for _, change := range schema.Diff(m.set, target) {
		switch {
		case change.New == nil:
			ops = append(ops, clientv3.OpDelete(m.keys.policy(change.Name)))
		case !change.SameMeaning():
			if len(change.New.Canonical) > maxValue {
				return nil, fmt.Errorf("policy %s takes %d bytes, and etcd takes at most %d in one key: make several policies of it", change.Name, len(change.New.Canonical), maxValue)
			}
			ops = append(ops, clientv3.OpPut(m.keys.policy(change.Name), string(change.New.Canonical)))
		}
	}
	for name := range m.foreign {
		if target.Get(name) == nil {
			ops = append(ops, clientv3.OpDelete(m.keys.policy(name)))
		}
	}
	for bucket := range schema.Buckets {
		switch m.origins[bucket].compare(target.Bucket(bucket)) {
		case api.Extra:
			ops = append(ops, clientv3.OpDelete(m.keys.origins(bucket)))
		case api.Missing, api.Modified:
			ops = append(ops, clientv3.OpPut(m.keys.origins(bucket), encodeOrigins(originsOf(target, bucket))))
		}
	}
	return ops, nil
}

// historyOps add an entry, if there is one, and take the oldest away.
func (m *mirror) historyOps(entry *api.HistoryEntry) []clientv3.Op {
	if entry == nil {
		return nil
	}
	numbers := m.historyNumbers()
	next := m.lastHistory() + 1
	if newest, ok := m.history[next-1]; ok && encode(newest) == encode(entry) {
		// It is there already: the write that seemed to fail had not.
		return nil
	}
	ops := []clientv3.Op{clientv3.OpPut(m.keys.history(next), encode(entry))}
	if next > maxHistoryNumber {
		// A stranger has used up the numbers; with the highest gone they go on.
		return []clientv3.Op{clientv3.OpDelete(m.keys.history(next - 1))}
	}
	surplus := min(len(numbers)+1-reconciler.MaxHistory, maxTrim)
	for _, number := range numbers[:max(surplus, 0)] {
		ops = append(ops, clientv3.OpDelete(m.keys.history(number)))
	}
	return ops
}

// pack lays operations into transactions within etcd's limits; last goes into
// the last one, whole. Where there are several, the first sets the mark of a
// publication under way and the last takes it away.
func pack(changes, last []clientv3.Op, mark, unmark clientv3.Op, marked bool) [][]clientv3.Op {
	var transactions [][]clientv3.Op
	var ops []clientv3.Op
	weight, reserved := 0, len(last)+2
	for _, op := range last {
		weight += weigh(op)
	}
	base := weight
	for _, op := range changes {
		if len(ops) > 0 && (len(ops)+reserved >= maxOps || weight+weigh(op) > maxBytes) {
			transactions = append(transactions, ops)
			ops, weight = nil, base
		}
		ops = append(ops, op)
		weight += weigh(op)
	}
	if weight > maxBytes && len(ops) > 0 {
		// The last one is left to itself beside a very large policy.
		transactions = append(transactions, ops)
		ops = nil
	}
	transactions = append(transactions, append(slices.Clip(ops), last...))
	end := len(transactions) - 1
	if end > 0 {
		transactions[0] = append(slices.Clip(transactions[0]), mark)
	}
	if end > 0 || marked {
		transactions[end] = append(transactions[end], unmark)
	}
	return transactions
}

func weigh(op clientv3.Op) int { return len(op.KeyBytes()) + len(op.ValueBytes()) + opBytes }
