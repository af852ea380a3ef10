package fault

import (
	"cmp"
	"slices"
	"strings"
)

const (
	// few rules are tried one after the other: their draws come before
	// anything is asked of the request, and no index is faster.
	few = 8
	// crowd is how many rules may share a place in the index of paths before
	// a header is looked for that tells them apart.
	crowd = 8
	// manyByHeader is how many rules a header must tell apart before it is
	// worth being asked for on every request.
	manyByHeader = 8
)

// index finds the rules of a program that may match a request, without
// looking at the others. Every rule is in exactly one of its parts.
type index struct {
	// linear are the rules that no part below can tell apart.
	linear []*rule
	// exact are rules by the whole path.
	exact map[string][]*rule
	// prefixes are rules by what the path begins with, in the order of prefix.
	prefixes []prefixed
	// headers are rules by the value of a header.
	headers []valued
}

// prefixed are the rules of one prefix.
type prefixed struct {
	prefix string
	// parent is the place of the longest other prefix that this one begins
	// with, or -1.
	parent int
	rules  []*rule
}

// valued are the rules that ask for a value of one header exactly.
type valued struct {
	slot  int
	rules map[string][]*rule
}

// newIndex indexes rules; it is nil if there are few.
func newIndex(rules []rule) *index {
	if len(rules) <= few {
		return nil
	}
	paths := map[pathKey]int{}
	for i := range rules {
		if key, ok := rules[i].pathKey(); ok {
			paths[key]++
		}
	}
	crowded := func(r *rule) bool {
		key, ok := r.pathKey()
		return !ok || paths[key] > crowd
	}
	headers := map[headerKey]int{}
	bySlot := map[int]int{}
	for i := range rules {
		if r := &rules[i]; crowded(r) {
			for key := range r.headerKeys {
				headers[key]++
				bySlot[key.slot]++
			}
		}
	}
	x := &index{exact: map[string][]*rule{}}
	byPrefix := map[string][]*rule{}
	for i := range rules {
		r := &rules[i]
		path, hasPath := r.pathKey()
		var header headerKey
		sharing := 0
		if crowded(r) {
			for key := range r.headerKeys {
				if bySlot[key.slot] >= manyByHeader && (sharing == 0 || headers[key] < sharing) {
					header, sharing = key, headers[key]
				}
			}
		}
		switch {
		case sharing > 0 && (!hasPath || sharing < paths[path]):
			x.addByHeader(header, r)
		case !hasPath:
			x.linear = append(x.linear, r)
		case path.whole:
			x.exact[path.text] = append(x.exact[path.text], r)
		default:
			byPrefix[path.text] = append(byPrefix[path.text], r)
		}
	}
	x.addPrefixes(byPrefix)
	return x
}

// pathKey is what all paths that a rule can match are, or begin with.
type pathKey struct {
	text  string
	whole bool
}

// pathKey is false if the rule's paths have nothing in common.
func (r *rule) pathKey() (pathKey, bool) {
	switch r.path.how {
	case exact:
		return pathKey{r.path.value, true}, true
	case prefix, regex:
		return pathKey{r.path.value, false}, r.path.value != ""
	}
	return pathKey{}, false
}

// headerKey is a value that a rule wants a header to have.
type headerKey struct {
	slot  int
	value string
}

// headerKeys yields what values the rule wants exactly.
func (r *rule) headerKeys(yield func(headerKey) bool) {
	for _, h := range r.headers {
		if h.text.how == exact && !yield(headerKey{h.slot, h.text.value}) {
			return
		}
	}
}

func (x *index) addByHeader(key headerKey, r *rule) {
	at := slices.IndexFunc(x.headers, func(v valued) bool { return v.slot == key.slot })
	if at < 0 {
		at = len(x.headers)
		x.headers = append(x.headers, valued{key.slot, map[string][]*rule{}})
	}
	rules := x.headers[at].rules
	rules[key.value] = append(rules[key.value], r)
}

// addPrefixes sorts prefixes and finds the parent of each.
func (x *index) addPrefixes(byPrefix map[string][]*rule) {
	for prefix, rules := range byPrefix {
		x.prefixes = append(x.prefixes, prefixed{prefix, -1, rules})
	}
	slices.SortFunc(x.prefixes, func(a, b prefixed) int { return cmp.Compare(a.prefix, b.prefix) })
	for i := range x.prefixes {
		// All prefixes of this one stand before it, and those that stand
		// between one of them and this one begin with it too: so they are
		// the one just before, or its ancestors.
		parent := i - 1
		for parent >= 0 && !strings.HasPrefix(x.prefixes[i].prefix, x.prefixes[parent].prefix) {
			parent = x.prefixes[parent].parent
		}
		x.prefixes[i].parent = parent
	}
}

// try tries the rules that may match.
func (x *index) try(o *outcome, view *view, random *Random) {
	o.tryAll(x.linear, view, random)
	if len(x.exact) > 0 {
		o.tryAll(x.exact[view.path()], view, random)
	}
	if len(x.prefixes) > 0 {
		path := view.path()
		for at := x.lastUpTo(path); at >= 0; at = x.prefixes[at].parent {
			if node := &x.prefixes[at]; strings.HasPrefix(path, node.prefix) {
				o.tryAll(node.rules, view, random)
			}
		}
	}
	for i := range x.headers {
		if text, present := view.header(x.headers[i].slot); present {
			o.tryAll(x.headers[i].rules[text], view, random)
		}
	}
}

// lastUpTo is the place of the last prefix that is not greater than path, or
// -1. The prefixes that path begins with are that one and its ancestors, as
// far as path begins with them.
func (x *index) lastUpTo(path string) int {
	low, high := 0, len(x.prefixes)
	for low < high {
		middle := int(uint(low+high) >> 1)
		if x.prefixes[middle].prefix <= path {
			low = middle + 1
		} else {
			high = middle
		}
	}
	return low - 1
}

func (o *outcome) tryAll(rules []*rule, view *view, random *Random) {
	for _, r := range rules {
		o.try(r, view, random)
	}
}
