//go:build !wasm

package program

import (
	"maps"
	"slices"
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

// newIndex returns an index of rules, or nil if there are few.
func newIndex(rules []Rule) *Index {
	if len(rules) <= maxLinear {
		return nil
	}
	paths := map[pathKey]int{}
	for i := range rules {
		if key, ok := pathKeyOf(&rules[i]); ok {
			paths[key]++
		}
	}
	crowded := func(r *Rule) bool {
		key, ok := pathKeyOf(r)
		return !ok || paths[key] > maxPerPath
	}
	headers := map[headerKey]int{}
	bySlot := map[int]int{}
	for i := range rules {
		if r := &rules[i]; crowded(r) {
			for _, key := range headerKeys(r) {
				headers[key]++
				bySlot[key.slot]++
			}
		}
	}
	x := new(Index)
	byPath, byPrefix := map[string][]uint32{}, map[string][]uint32{}
	byHeader := map[int]map[string][]uint32{}
	for i := range rules {
		r := &rules[i]
		path, hasPath := pathKeyOf(r)
		var header headerKey
		sharing := 0
		if crowded(r) {
			for _, key := range headerKeys(r) {
				if bySlot[key.slot] >= minPerHeader && (sharing == 0 || headers[key] < sharing) {
					header, sharing = key, headers[key]
				}
			}
		}
		switch {
		case sharing > 0 && (!hasPath || sharing < paths[path]):
			if byHeader[header.slot] == nil {
				byHeader[header.slot] = map[string][]uint32{}
			}
			byHeader[header.slot][header.value] = append(byHeader[header.slot][header.value], uint32(i))
		case !hasPath:
			x.Linear = append(x.Linear, uint32(i))
		case path.whole:
			byPath[path.text] = append(byPath[path.text], uint32(i))
		default:
			byPrefix[path.text] = append(byPrefix[path.text], uint32(i))
		}
	}
	x.Exact, x.Prefixes = groups(byPath), groups(byPrefix)
	x.connectPrefixes()
	for _, slot := range slices.Sorted(maps.Keys(byHeader)) {
		x.Headers = append(x.Headers, HeaderGroups{Slot: slot, Groups: groups(byHeader[slot])})
	}
	return x
}

func groups(byKey map[string][]uint32) []Group {
	var all []Group
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		all = append(all, Group{key, byKey[key]})
	}
	return all
}

// pathKey is a path, if whole is set, or a prefix of all paths that a rule matches.
type pathKey struct {
	text  string
	whole bool
}

// pathKeyOf returns false if the paths that the rule matches have no common prefix.
func pathKeyOf(r *Rule) (pathKey, bool) {
	switch r.Path.How {
	case Exact:
		return pathKey{r.Path.Value, true}, true
	case Prefix, Regex:
		return pathKey{r.Path.Value, false}, r.Path.Value != ""
	}
	return pathKey{}, false
}

// headerKey is a value that a rule requires a header to have.
type headerKey struct {
	slot  int
	value string
}

// headerKeys returns the header values that the rule requires.
func headerKeys(r *Rule) (keys []headerKey) {
	for _, h := range r.Headers {
		if h.Text.How == Exact {
			keys = append(keys, headerKey{h.Slot, h.Text.Value})
		}
	}
	return keys
}
