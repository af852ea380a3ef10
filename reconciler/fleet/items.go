package fleet

import (
	"cmp"
	"container/heap"
	"slices"

	"github.com/boifi/hfi/internal/api"
)

// firstItems collects filters, of which the first MaxFilterItems get sorted:
// no answer lists more, and to sort very many is expensive.
type firstItems struct {
	// all begins with the first ones, once there are more: a heap, whose first
	// element is the last of them.
	all []api.FilterStatus
}

func newFirstItems(capacity int) *firstItems {
	return &firstItems{make([]api.FilterStatus, 0, capacity)}
}

func (f *firstItems) add(item api.FilterStatus) {
	f.all = append(f.all, item)
	last := len(f.all) - 1
	switch {
	case last < api.MaxFilterItems:
	case last == api.MaxFilterItems:
		heap.Init(lastFirst(f.all[:last]))
		fallthrough
	default:
		if compareItems(&f.all[last], &f.all[0]) < 0 {
			f.all[0], f.all[last] = f.all[last], f.all[0]
			heap.Fix(lastFirst(f.all[:api.MaxFilterItems]), 0)
		}
	}
}

// list is all, the first ones in order.
func (f *firstItems) list() []api.FilterStatus {
	slices.SortFunc(f.all[:min(len(f.all), api.MaxFilterItems)], func(a, b api.FilterStatus) int { return compareItems(&a, &b) })
	return f.all
}

func compareItems(a, b *api.FilterStatus) int {
	return cmp.Or(cmp.Compare(urgency(a.State), urgency(b.State)), cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Service, b.Service), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Node, b.Node))
}

// lastFirst is a heap.Interface of a fixed length.
type lastFirst []api.FilterStatus

func (l lastFirst) Len() int           { return len(l) }
func (l lastFirst) Less(i, j int) bool { return compareItems(&l[i], &l[j]) > 0 }
func (l lastFirst) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (lastFirst) Push(any)             { panic("the length is fixed") }
func (lastFirst) Pop() any             { panic("the length is fixed") }
