package fleet

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/boifi/hfi/internal/api"
)

// firstItems are the first MaxFilterItems filters, in order, and those of the
// others that somebody needs. There may be very many: to keep and to sort all
// is expensive.
type firstItems struct {
	// first is a heap once it has MaxFilterItems, whose first element is the last of them.
	first, others []api.FilterStatus
	// needed reports whether filters in a state are needed that are not among the first.
	needed func(api.FilterState) bool
}

func (f *firstItems) add(item api.FilterStatus) {
	if len(f.first) < api.MaxFilterItems {
		f.first = append(f.first, item)
		if len(f.first) == api.MaxFilterItems {
			heap.Init(lastFirst(f.first))
		}
		return
	}
	if compareItems(item, f.first[0]) < 0 {
		item, f.first[0] = f.first[0], item
		heap.Fix(lastFirst(f.first), 0)
	}
	if f.needed(item.State) {
		f.others = append(f.others, item)
	}
}

// list is all that were kept.
func (f *firstItems) list() []api.FilterStatus {
	slices.SortFunc(f.first, compareItems)
	return append(f.first, f.others...)
}

func compareItems(a, b api.FilterStatus) int {
	if order := cmp.Compare(urgency(a.State), urgency(b.State)); order != 0 {
		return order
	}
	if order := cmp.Compare(a.Namespace, b.Namespace); order != 0 {
		return order
	}
	return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Waypoint, b.Waypoint), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node))
}

// lastFirst is a heap.Interface of a fixed length.
type lastFirst []api.FilterStatus

func (l lastFirst) Len() int           { return len(l) }
func (l lastFirst) Less(i, j int) bool { return compareItems(l[i], l[j]) > 0 }
func (l lastFirst) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (lastFirst) Push(any)             { panic("the length is fixed") }
func (lastFirst) Pop() any             { panic("the length is fixed") }
