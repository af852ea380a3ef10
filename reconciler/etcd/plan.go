package etcd

import (
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Limits of one transaction, below etcd's own of 128 operations and 1.5 MiB.
const (
	maxOps = 100
	// minOps is the fewest that a publication can do with.
	minOps   = 7
	maxBytes = 1 << 20
	// maxValue is the largest value that fits into a request.
	maxValue = 1_400_000
	// opBytes is about the size of an operation without its key and value.
	opBytes = 64
)

// plan is what has to be written for a publication.
type plan struct {
	// transactions are to be committed in this order. There are none if etcd
	// holds the publication and it was verified.
	transactions [][]clientv3.Op
	// headUnmoved is the condition that the head is the one that the plan was
	// made for, so that a delayed transaction cannot overwrite a later publication.
	headUnmoved clientv3.Cmp
}

// plan compares what etcd holds with a publication. mark writes the publishing
// key, and a transaction has at most maxOps operations.
func (t *tracker) plan(now time.Time, publication reconciler.Publication, mark clientv3.Op, maxOps int) (*plan, error) {
	c, target := t.cache, publication.Set
	if !c.head.present {
		// It was deleted after its key was reserved, and no create revision can be signed.
		return nil, errHeadMoved
	}
	changes, err := c.changeOps(target)
	if err != nil {
		return nil, err
	}
	signing := c.signer.keys.SignerID()
	headStored := t.headVerified() && c.head.value.Commit == publication.Commit && verified(c.head.value, target) && sameHead(c.head.value, t.state.Head)
	headSigned := headStored && c.head.signer == signing
	epochStored := t.epochStored() && c.epoch.signer == signing
	p := &plan{headUnmoved: clientv3.Compare(clientv3.ModRevision(c.keys.head()), "=", c.head.modRevision)}
	if len(changes) == 0 && headSigned && epochStored && c.publishing == 0 {
		return p, nil
	}
	head := reconciler.Head{Commit: publication.Commit, Digest: target.Digest(), Count: target.Len(), At: now.UTC()}
	if headStored {
		// A repair publishes nothing new.
		head = c.head.value
	}
	last := []clientv3.Op{c.headOp(head, t.epoch.value)}
	if !epochStored {
		last = append(last, clientv3.OpPut(c.keys.epoch(), c.signer.encodeEpoch(t.epoch.value)))
	}
	last = append(last, c.historyOps(publication.Entry)...)
	p.transactions = pack(changes, last, mark, clientv3.OpDelete(c.keys.publishing()), c.publishing != 0, maxOps)
	return p, nil
}

// headOp writes a head, in a transaction that compares the head's ModRevision
// with the cache's.
func (c *cache) headOp(head reconciler.Head, epoch reconciler.Epoch) clientv3.Op {
	return clientv3.OpPut(c.keys.head(), c.signer.encodeHead(head, epoch, c.head))
}

// changeOps are the writes that turn the policies and origins in etcd into the
// target's.
func (c *cache) changeOps(target *schema.Set) ([]clientv3.Op, error) {
	var ops []clientv3.Op
	for _, change := range schema.Diff(c.set, target) {
		switch {
		case change.New == nil:
			ops = append(ops, clientv3.OpDelete(c.keys.policy(change.Name)))
		case !change.OriginOnly():
			if len(change.New.Canonical) > maxValue {
				return nil, fmt.Errorf("policy %s takes %d bytes, and etcd takes at most %d in one key: split it into several policies", change.Name, len(change.New.Canonical), maxValue)
			}
			ops = append(ops, clientv3.OpPut(c.keys.policy(change.Name), string(change.New.Canonical)))
		}
	}
	for name := range c.foreign.names {
		if target.Get(name) == nil {
			ops = append(ops, clientv3.OpDelete(c.keys.policy(name)))
		}
	}
	for bucket := range schema.Buckets {
		switch c.origins[bucket].compare(target.Bucket(bucket)) {
		case api.Extra:
			ops = append(ops, clientv3.OpDelete(c.keys.origins(bucket)))
		case api.Missing, api.Modified:
			ops = append(ops, clientv3.OpPut(c.keys.origins(bucket), encodeOrigins(originsOf(target, bucket))))
		}
	}
	return ops, nil
}

// pack distributes operations over transactions within etcd's limits; all of
// last goes into the last transaction. If there are several, the first one
// also contains mark, and the last one unmark; the last one contains unmark
// too if the mark is already set.
func pack(changes, last []clientv3.Op, mark, unmark clientv3.Op, marked bool, maxOps int) [][]clientv3.Op {
	var transactions [][]clientv3.Op
	var ops []clientv3.Op
	size, reserved := 0, len(last)+2
	for _, op := range last {
		size += opSize(op)
	}
	base := size
	for _, op := range changes {
		if len(ops) > 0 && (len(ops)+reserved >= maxOps || size+opSize(op) > maxBytes) {
			transactions = append(transactions, ops)
			ops, size = nil, base
		}
		ops = append(ops, op)
		size += opSize(op)
	}
	if size > maxBytes && len(ops) > 0 {
		// A very large policy leaves no room for last in its transaction.
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

func opSize(op clientv3.Op) int { return len(op.KeyBytes()) + len(op.ValueBytes()) + opBytes }
