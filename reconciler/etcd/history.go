package etcd

import (
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
)

// Bounds of what is kept of the history's keys, since anyone who can write to
// etcd can write such keys. hfi's entries are a few hundred bytes.
const (
	maxHistoryKept  = 2 * reconciler.MaxHistory
	maxHistoryEntry = 16 << 10
)

// history is what the keys under history/ say.
type history struct {
	// numbers are those of the newest keys, ascending, at most maxHistoryKept.
	// It is kept in order, so that an event costs the same however many there are.
	numbers []int64
	// entries are by number; those that do not verify are empty, and are trimmed
	// in their turn.
	entries map[int64]api.HistoryEntry
	// listed is what newest returned last, or nil if the history changed since.
	listed []api.HistoryEntry
}

func (h *history) put(number int64, entry api.HistoryEntry) {
	h.remove(number)
	if len(h.numbers) == maxHistoryKept {
		if number < h.numbers[0] {
			return
		}
		h.remove(h.numbers[0])
	}
	at, _ := slices.BinarySearch(h.numbers, number)
	h.numbers = slices.Insert(h.numbers, at, number)
	h.entries[number] = entry
	h.listed = nil
}

func (h *history) remove(number int64) {
	at, found := slices.BinarySearch(h.numbers, number)
	if !found {
		return
	}
	h.numbers = slices.Delete(h.numbers, at, at+1)
	delete(h.entries, number)
	h.listed = nil
}

// last is the highest number, or 0.
func (h *history) last() int64 {
	if len(h.numbers) == 0 {
		return 0
	}
	return h.numbers[len(h.numbers)-1]
}

// newest are the entries, newest first, at most reconciler.MaxHistory. The
// result is never changed.
func (h *history) newest() []api.HistoryEntry {
	if h.listed != nil {
		return h.listed
	}
	h.listed = make([]api.HistoryEntry, 0, min(len(h.numbers), reconciler.MaxHistory))
	for _, number := range slices.Backward(h.numbers) {
		if entry := h.entries[number]; entry.Commit != "" && len(h.listed) < reconciler.MaxHistory {
			h.listed = append(h.listed, entry)
		}
	}
	return h.listed
}

// historyOps add an entry, if there is one, and delete the oldest. If another
// writer has used up the numbers, all from the first on that hfi cannot have
// reached are deleted, and the numbers before continue.
func (c *cache) historyOps(entry *api.HistoryEntry) []clientv3.Op {
	if entry == nil {
		return nil
	}
	h := &c.history
	next := h.last() + 1
	if newest, ok := h.entries[next-1]; ok && encode(newest) == encode(entry) {
		// The entry exists already: an earlier write succeeded though it was not confirmed.
		return nil
	}
	if next > maxHistoryNumber {
		own, _ := slices.BinarySearch(h.numbers, maxHistoryNumber/2)
		next = 1
		if own > 0 {
			next = h.numbers[own-1] + 1
		}
		return []clientv3.Op{
			clientv3.OpPut(c.keys.history(next), c.signer.encodeHistory(next, entry)),
			clientv3.OpDelete(c.keys.history(next+1), clientv3.WithRange(clientv3.GetPrefixRangeEnd(c.keys.histories()))),
		}
	}
	ops := []clientv3.Op{clientv3.OpPut(c.keys.history(next), c.signer.encodeHistory(next, entry))}
	if surplus := len(h.numbers) + 1 - reconciler.MaxHistory; surplus > 0 {
		ops = append(ops, clientv3.OpDelete(c.keys.histories(), clientv3.WithRange(c.keys.history(h.numbers[surplus-1]+1))))
	}
	return ops
}
