//go:build !wasm

// The filter does not need the index: it has only the policies of one workload.

package selection

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"

	"github.com/boifi/hfi/schema"
)

// String names the workload in messages.
func (w Workload) String() string {
	switch {
	case w.Waypoint:
		return fmt.Sprintf("waypoints in namespace %q", w.Namespace)
	case w.Gateway != "":
		return fmt.Sprintf("gateway %q in namespace %q", w.Gateway, w.Namespace)
	}
	return fmt.Sprintf("service %q in namespace %q", w.Service, w.Namespace)
}

// Index finds the policies of a set that apply to a workload. The cost depends on
// the number of policies found. An Index is immutable: Apply returns another that
// shares most of it, at a cost that depends on the size of the change. The zero value
// is the index of an empty set.
type Index struct {
	// root is a treap: a search tree by key and name that is also a heap by
	// priority, which keeps it shallow. Nodes are immutable.
	root *node
}

type node struct {
	key         Key
	entry       *schema.Entry
	priority    uint64
	left, right *node
}

// seed makes the priorities unpredictable, so that the names of policies cannot make
// the tree deep.
var seed = maphash.MakeSeed()

// Apply returns the index after changes, which are the result of schema.Diff for the
// set of x and the next set. It also returns the keys of the selectors, old and new,
// of the policies whose content differs, each once. The policies of a workload that
// has none of these among its Keys have not changed.
func (x *Index) Apply(changes []schema.Change) (*Index, []Key) {
	root := x.root
	touched := map[Key]struct{}{}
	for _, change := range changes {
		for _, entry := range []*schema.Entry{change.Old, change.New} {
			if entry != nil && !change.OriginOnly() {
				key := KeyOf(entry.Policy.Spec.Selector)
				touched[key] = struct{}{}
				if key.Gateway == "" {
					touched[Key{Service: EachService, Namespace: key.Namespace}] = struct{}{}
				}
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

// Select returns the entries that apply to the workload, sorted by name.
func (x *Index) Select(workload Workload) []*schema.Entry {
	var selected []*schema.Entry
	for _, key := range workload.Keys() {
		selected = x.root.collect(key, selected)
	}
	slices.SortFunc(selected, func(a, b *schema.Entry) int { return cmp.Compare(a.Name(), b.Name()) })
	return selected
}

// Reduced returns the workload without the names for which no policy is: the
// same policies apply to it. All workloads that clients make up are one then, and all
// gateways.
func (x *Index) Reduced(workload Workload) Workload {
	if workload.Waypoint {
		if !x.root.has(keyOf(workload)) {
			workload.Namespace = ""
		}
		return Workload{Namespace: workload.Namespace, Waypoint: true}
	}
	unnamed, nowhere := Workload{Namespace: workload.Namespace}, workload
	if workload.Gateway != "" {
		unnamed.Gateway, nowhere.Service = schema.Any, ""
	}
	nowhere.Namespace = ""
	both := x.root.has(keyOf(workload))
	named, inNamespace := both || x.root.has(keyOf(nowhere)), both || x.root.has(keyOf(unnamed))
	if !named {
		workload = unnamed
	}
	if !inNamespace {
		workload.Namespace = ""
	}
	if workload.Gateway != "" {
		workload.Service = ""
	}
	return workload
}

// keyOf is the most specific key that matches a workload.
func keyOf(workload Workload) Key { return workload.Keys()[0] }

// has reports whether there is an entry with a key that the given one covers.
func (n *node) has(key Key) bool {
	for n != nil {
		switch order := n.key.compare(key); {
		case order == 0:
			return true
		case order > 0:
			n = n.left
		default:
			n = n.right
		}
	}
	return false
}

func newNode(entry *schema.Entry) *node {
	return &node{
		key:      KeyOf(entry.Policy.Spec.Selector),
		entry:    entry,
		priority: maphash.String(seed, entry.Name()),
	}
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service))
}

// compare compares the key with another one, to which all that it covers are equal.
func (k Key) compare(to Key) int {
	if to.covers(k) {
		return 0
	}
	return compareKeys(k, to)
}

func compareNodes(a, b *node) int {
	return cmp.Or(compareKeys(a.key, b.key), cmp.Compare(a.entry.Name(), b.entry.Name()))
}

// with returns the tree n with a node added.
func (n *node) with(added *node) *node {
	if n == nil || added.priority > n.priority {
		added.left, added.right = n.split(added)
		return added
	}
	next := *n
	switch order := compareNodes(added, n); {
	case order < 0:
		next.left = n.left.with(added)
	case order > 0:
		next.right = n.right.with(added)
	default:
		next.entry = added.entry
	}
	return &next
}

// without returns the tree n without the node that has the key and name of removed.
func (n *node) without(removed *node) *node {
	if n == nil {
		return nil
	}
	order := compareNodes(removed, n)
	if order == 0 {
		return join(n.left, n.right)
	}
	next := *n
	if order < 0 {
		next.left = n.left.without(removed)
	} else {
		next.right = n.right.without(removed)
	}
	return &next
}

// split returns the parts of the tree before and after a node. A node equal to it is
// in neither.
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

// join joins two trees. All nodes of the first must be before those of the second.
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

// collect appends the entries of the keys that a key covers.
func (n *node) collect(key Key, into []*schema.Entry) []*schema.Entry {
	if n == nil {
		return into
	}
	order := n.key.compare(key)
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
