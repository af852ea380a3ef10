package fault

import (
	"maps"
	"slices"
	"strings"
)

const (
	// maxLinear is the number of rules up to which there is no index: the draws come
	// before any host call, so trying few rules one by one is faster.
	maxLinear = 8
	// maxPerPath is the number of rules with the same path key above which an index
	// by header is considered.
	maxPerPath = 8
	// minPerHeader is the number of rules that must compare a header exactly for the
	// header to be read on every request.
	minPerHeader = 8
)

// index finds the rules of a program that may match a request, without trying the
// others. Every rule is in exactly one of its fields.
type index struct {
	// linear has the rules that are always tried.
	linear []*rule
	// exact has rules by the whole path.
	exact map[string][]*rule
	// prefixes has rules by a prefix of the path, sorted by prefix.
	prefixes []prefixed
	// headers has rules by the value of a header.
	headers []valued
}

// prefixed has the rules of one prefix.
type prefixed struct {
	prefix string
	// parent is the index in prefixes of the longest other prefix that this one begins
	// with, or -1.
	parent int
	rules  []*rule
}

// valued has the rules that compare one header exactly, by the value.
type valued struct {
	slot  int
	rules map[string][]*rule
}

// newIndex returns an index of rules, or nil if there are few.
func newIndex(rules []rule) *index {
	if len(rules) <= maxLinear {
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
		return !ok || paths[key] > maxPerPath
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
				if bySlot[key.slot] >= minPerHeader && (sharing == 0 || headers[key] < sharing) {
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

// pathKey is a path, if whole is set, or a prefix of all paths that a rule matches.
type pathKey struct {
	text  string
	whole bool
}

// pathKey returns false if the paths that the rule matches have no common prefix.
func (r *rule) pathKey() (pathKey, bool) {
	switch r.path.how {
	case exact:
		return pathKey{r.path.value, true}, true
	case prefix, regex:
		return pathKey{r.path.value, false}, r.path.value != ""
	}
	return pathKey{}, false
}

// headerKey is a value that a rule requires a header to have.
type headerKey struct {
	slot  int
	value string
}

// headerKeys yields the header values that the rule requires.
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
	// Sorting the structs would make the filter's module 20 kB larger.
	for _, prefix := range slices.Sorted(maps.Keys(byPrefix)) {
		x.prefixes = append(x.prefixes, prefixed{prefix, -1, byPrefix[prefix]})
	}
	for i := range x.prefixes {
		// All prefixes of this one are before it, and all prefixes between one of
		// them and this one begin with it too. So they are the one directly before
		// this one, or its ancestors.
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

// lastUpTo returns the index of the last prefix that is not greater than path, or -1.
// All prefixes that path begins with are among that one and its ancestors.
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
