//go:build !wasm

// The filter has no part of this: it has the policies of one workload only.

package selection

import (
	"cmp"
	"hash/maphash"
	"slices"

	"github.com/boifi/hfi/schema"
)

// Index finds the policies of a set that apply to a workload, in the cost of
// those found. It is immutable: Apply makes another that shares most of it,
// in the cost of what changed. The zero value is the index of no policies.
type Index struct {
	// root is a treap: a search tree by key and name that is at the same time
	// a heap by priority, which keeps it shallow. Nodes are never changed.
	root *node
}

type node struct {
	key         Key
	entry       *schema.Entry
	priority    uint64
	left, right *node
}

// seed makes the priorities, and so the tree's depth, nothing that the
// author of a policy's name could choose.
var seed = maphash.MakeSeed()

// Apply is the index after changes, as schema.Diff lists them between the set
// that x indexes and the next, and the keys of the selectors whose policies
// differ in meaning, old and new, each once. A workload that has none of these
// among its Keys is served as before.
func (x *Index) Apply(changes []schema.Change) (*Index, []Key) {
	root := x.root
	touched := map[Key]struct{}{}
	for _, change := range changes {
		for _, entry := range []*schema.Entry{change.Old, change.New} {
			if entry != nil && !change.OriginOnly() {
				touched[KeyOf(entry.Policy.Spec.Selector)] = struct{}{}
			}
		}
		if change.Old != nil {
			root = root.without(newNode(change.Old))
		}
		if change.New != nil {
			root = root.with(newNode(change.New))
		}
	}
	keys := make([]Key, 0, len(touched))
	for key := range touched {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, compareKeys)
	return &Index{root: root}, keys
}

// Select is the entries that apply to the workload, by name.
func (x *Index) Select(workload Workload) []*schema.Entry {
	var selected []*schema.Entry
	for _, key := range workload.Keys() {
		selected = x.root.collect(key, selected)
	}
	slices.SortFunc(selected, func(a, b *schema.Entry) int { return cmp.Compare(a.Name(), b.Name()) })
	return selected
}

func newNode(entry *schema.Entry) *node {
	return &node{
		key:      KeyOf(entry.Policy.Spec.Selector),
		entry:    entry,
		priority: maphash.String(seed, entry.Name()),
	}
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Namespace, b.Namespace))
}

func compareNodes(a, b *node) int {
	return cmp.Or(compareKeys(a.key, b.key), cmp.Compare(a.entry.Name(), b.entry.Name()))
}

// with is the tree n with one more node.
func (n *node) with(one *node) *node {
	if n == nil || one.priority > n.priority {
		one.left, one.right = n.split(one)
		return one
	}
	next := *n
	switch order := compareNodes(one, n); {
	case order < 0:
		next.left = n.left.with(one)
	case order > 0:
		next.right = n.right.with(one)
	default:
		next.entry = one.entry
	}
	return &next
}

// without is the tree n without the node of the same key and name, if it has one.
func (n *node) without(one *node) *node {
	if n == nil {
		return nil
	}
	order := compareNodes(one, n)
	if order == 0 {
		return join(n.left, n.right)
	}
	next := *n
	if order < 0 {
		next.left = n.left.without(one)
	} else {
		next.right = n.right.without(one)
	}
	return &next
}

// split is the part of the tree that comes before a node and the part that
// comes after it; a node equal to it is in neither.
func (n *node) split(at *node) (before, after *node) {
	if n == nil {
		return nil, nil
	}
	next := *n
	switch order := compareNodes(n, at); {
	case order < 0:
		next.right, after = n.right.split(at)
		return &next, after
	case order > 0:
		before, next.left = n.left.split(at)
		return before, &next
	default:
		return n.left, n.right
	}
}

// join is one tree of two, all nodes of the first coming before the second's.
func join(before, after *node) *node {
	switch {
	case before == nil:
		return after
	case after == nil:
		return before
	case before.priority > after.priority:
		next := *before
		next.right = join(before.right, after)
		return &next
	default:
		next := *after
		next.left = join(before, after.left)
		return &next
	}
}

// collect appends the entries of a key, by name.
func (n *node) collect(key Key, into []*schema.Entry) []*schema.Entry {
	if n == nil {
		return into
	}
	order := compareKeys(n.key, key)
	if order >= 0 {
		into = n.left.collect(key, into)
	}
	if order == 0 {
		into = append(into, n.entry)
	}
	if order <= 0 {
		into = n.right.collect(key, into)
	}
	return into
}
