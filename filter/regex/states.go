//go:build !wasm

package regex

import (
	"slices"
	"unicode/utf8"
)

const (
	// maxStates and maxVisits limit what determine does before it gives up, to some ten
	// milliseconds: states, and visits of instructions.
	maxStates = 1024
	maxVisits = 1 << 18
	// maxAutomaton limits the length of Regex.rows. An expression with a larger automaton
	// takes less memory as instructions.
	maxAutomaton = 8 << 10
)

// states are the states of a deterministic automaton, of which the first one is the
// first.
type states struct {
	classes int
	// next has, for each state and each class, the state that follows.
	next []int
	// ends has, for each state, whether the value may end.
	ends []bool
}

// row returns the states that follow a state.
func (s *states) row(state int) []int { return s.next[state*s.classes:][:s.classes] }

// determine turns instructions into an automaton. It returns nil if that gets too large.
func determine(program *program) *states {
	code, kinds := program.code, program.classes.kinds
	made := &states{classes: len(kinds)}
	// A state is a set of instructions, with the kind of the character before if one of
	// them asks.
	type key struct {
		before kind
		code   string
	}
	var known []key
	numbers := map[key]int{}
	scratch := newSet(len(code))
	visits := 0
	defer func() { program.effort += visits }()
	// number returns the state of a set of instructions.
	number := func(before kind, from []uint16) int {
		scratch.members = scratch.members[:0]
		for _, pc := range from {
			scratch.add(pc)
		}
		var kept []uint16
		asks := false
		for i := 0; i < len(scratch.members); i++ {
			pc := scratch.members[i]
			switch at := &code[pc]; at.op {
			case opEither:
				scratch.add(at.next)
				scratch.add(at.other)
				continue
			case opIf:
				asks = true
			case opFail:
				continue
			}
			kept = append(kept, pc)
		}
		visits += len(scratch.members)
		if !asks {
			before = other
		}
		slices.Sort(kept)
		bytes := make([]byte, 0, 2*len(kept))
		for _, pc := range kept {
			bytes = append(bytes, byte(pc), byte(pc>>8))
		}
		k := key{before, string(bytes)}
		n, ok := numbers[k]
		if !ok {
			n = len(known)
			numbers[k] = n
			known = append(known, k)
		}
		return n
	}
	number(noCharacter, []uint16{program.start})
	for i := 0; i < len(known); i++ {
		state := known[i]
		// tests has the instructions that test a character of each kind, and whether the
		// value may end.
		var tests [other + 1][]uint16
		for after := range tests {
			conditions := between(state.before, kind(after))
			scratch.members = scratch.members[:0]
			for j := 0; j < len(state.code); j += 2 {
				scratch.add(uint16(state.code[j]) | uint16(state.code[j+1])<<8)
			}
			for j := 0; j < len(scratch.members); j++ {
				switch at := &code[scratch.members[j]]; at.op {
				case opEither:
					scratch.add(at.next)
					scratch.add(at.other)
				case opIf:
					if at.conditions&^conditions == 0 {
						scratch.add(at.next)
					}
				default:
					tests[after] = append(tests[after], scratch.members[j])
				}
			}
			visits += len(scratch.members)
		}
		made.ends = append(made.ends, slices.ContainsFunc(tests[noCharacter], func(pc uint16) bool { return code[pc].op == opMatch }))
		var from []uint16
		for class, is := range kinds {
			from = from[:0]
			for _, pc := range tests[is] {
				if at := &code[pc]; at.op == opTest && at.lets[class] {
					from = append(from, at.next)
				}
			}
			visits += 1 + len(tests[is])
			made.next = append(made.next, number(is, from))
			if len(known) > maxStates || visits > maxVisits {
				return nil
			}
		}
	}
	return made
}

// minimize merges the states that no following characters tell apart, by Hopcroft's
// algorithm: a group of states is split by whether a class leads to another group.
func (s *states) minimize() {
	n := len(s.ends)
	// before has, for each class, the states by the one that follows: those followed by
	// state t are before[class][begin[class][t]:begin[class][t+1]].
	before, begin := make([][]int, s.classes), make([][]int, s.classes)
	for class := range s.classes {
		at := make([]int, n+2)
		for state := range n {
			at[s.next[state*s.classes+class]+2]++
		}
		for i := 2; i < len(at); i++ {
			at[i] += at[i-1]
		}
		list := make([]int, n)
		for state := range n {
			t := s.next[state*s.classes+class]
			list[at[t+1]] = state
			at[t+1]++
		}
		before[class], begin[class] = list, at
	}
	groups, group := [][]int{nil, nil}, make([]int, n)
	for state, ends := range s.ends {
		if ends {
			group[state] = 1
		}
		groups[group[state]] = append(groups[group[state]], state)
	}
	waiting, waits := []int{0, 1}, []bool{true, true}
	marked, marks := make([]bool, n), []int(nil)
	// touched has the groups of the marked states, and counts how many of each are marked.
	touched, counts := []int(nil), []int{0, 0}
	for len(waiting) > 0 {
		splitter := waiting[len(waiting)-1]
		waiting = waiting[:len(waiting)-1]
		waits[splitter] = false
		targets := slices.Clone(groups[splitter])
		for class := range s.classes {
			marks, touched = marks[:0], touched[:0]
			for _, t := range targets {
				for _, state := range before[class][begin[class][t]:begin[class][t+1]] {
					marks = append(marks, state)
					marked[state] = true
					if g := group[state]; counts[g] > 0 {
						counts[g]++
					} else {
						counts[g] = 1
						touched = append(touched, g)
					}
				}
			}
			for _, g := range touched {
				count := counts[g]
				counts[g] = 0
				if count == len(groups[g]) {
					continue
				}
				var in, out []int
				for _, state := range groups[g] {
					if marked[state] {
						in = append(in, state)
					} else {
						out = append(out, state)
					}
				}
				if len(in) > len(out) {
					in, out = out, in
				}
				// The smaller part gets a new number, and is waiting anyway: if the whole
				// waited, so does the other part.
				made := len(groups)
				groups[g] = out
				groups, counts = append(groups, in), append(counts, 0)
				for _, state := range in {
					group[state] = made
				}
				waits = append(waits, true)
				waiting = append(waiting, made)
			}
			for _, state := range marks {
				marked[state] = false
			}
		}
	}
	s.merge(group, 0)
}

// merge replaces the states by the groups that a state belongs to and that follow it,
// beginning with a state.
func (s *states) merge(group []int, first int) {
	made := &states{classes: s.classes}
	numbers := map[int]int{group[first]: 0}
	found := []int{first}
	for i := 0; i < len(found); i++ {
		made.ends = append(made.ends, s.ends[found[i]])
		for _, next := range s.row(found[i]) {
			n, ok := numbers[group[next]]
			if !ok {
				n = len(found)
				numbers[group[next]] = n
				found = append(found, next)
			}
			made.next = append(made.next, n)
		}
	}
	*s = *made
}

// skipPrefix makes the automaton begin after the longest prefix that every value has, and
// returns the prefix.
func (s *states) skipPrefix(classes *classes) string {
	// only has the character of each class that has one only.
	const several = -1
	only, seen := make([]rune, s.classes), make([]bool, s.classes)
	for i, class := range classes.class {
		only[class] = several
		if single := i+1 < len(classes.first) && classes.first[i+1] == classes.first[i]+1; single && !seen[class] {
			only[class] = classes.first[i]
		}
		seen[class] = true
	}
	dead := s.dead()
	state, prefix := 0, ""
	for !s.ends[state] {
		way := -1
		for class, next := range s.row(state) {
			if next == dead {
				continue
			}
			if way >= 0 {
				way = -1
				break
			}
			way = class
		}
		// U+FFFD stands for bytes that are not UTF-8, too.
		if way < 0 || !utf8.ValidRune(only[way]) || only[way] == utf8.RuneError {
			break
		}
		prefix += string(only[way])
		state = s.row(state)[way]
	}
	same := make([]int, len(s.ends))
	for i := range same {
		same[i] = i
	}
	s.merge(same, state)
	return prefix
}

// dead returns the state of a minimal automaton from which no value matches, or -1.
func (s *states) dead() int {
	for state, ends := range s.ends {
		if !ends && !slices.ContainsFunc(s.row(state), func(next int) bool { return next != state }) {
			return state
		}
	}
	return -1
}

// regex returns the automaton as a Regex, unless it is too large.
func (s *states) regex(prefix string, from *classes) *Regex {
	// Classes that no state tells apart any more become one.
	merged := make([]int, s.classes)
	known := map[string]int{}
	var columns []int
	for class := range merged {
		column := make([]byte, 0, 2*len(s.ends))
		for state := range s.ends {
			next := s.row(state)[class]
			column = append(column, byte(next), byte(next>>8))
		}
		n, ok := known[string(column)]
		if !ok {
			n = len(columns)
			known[string(column)] = n
			columns = append(columns, class)
		}
		merged[class] = n
	}
	made := &Regex{prefix: prefix, classes: len(columns)}
	from.store(made, merged)
	rows := make([][]int, len(s.ends))
	starts := make([]int, len(s.ends))
	length := 0
	for state := range rows {
		starts[state] = length
		// The most frequent successor becomes the default.
		frequency := map[int]int{}
		common := s.row(state)[columns[0]]
		for _, class := range columns {
			next := s.row(state)[class]
			if frequency[next]++; frequency[next] > frequency[common] {
				common = next
			}
		}
		row := []int{0, common}
		for class, column := range columns {
			if next := s.row(state)[column]; next != common {
				row = append(row, class, next)
			}
		}
		row[0] = len(row)/2 - 1
		if len(row) > 1+len(columns) || row[0] > maxPairs {
			row = []int{dense}
			for _, column := range columns {
				row = append(row, s.row(state)[column])
			}
		}
		rows[state] = row
		if length += len(row); length > maxAutomaton {
			return nil
		}
	}
	for state, row := range rows {
		head := row[0]
		if s.ends[state] {
			head |= accepts
		}
		made.rows = append(made.rows, uint16(head))
		for i, item := range row[1:] {
			if row[0] == dense || i%2 == 0 {
				item = starts[item]
			}
			made.rows = append(made.rows, uint16(item))
		}
	}
	return made
}

// set is a set of small numbers. Emptying it takes no time.
type set struct {
	members []uint16
	// where has the index in members of each member. Other items may have any value.
	where []uint16
}

func newSet(size int) set {
	return set{members: make([]uint16, 0, size), where: make([]uint16, size)}
}

func (s *set) add(member uint16) {
	if at := int(s.where[member]); at < len(s.members) && s.members[at] == member {
		return
	}
	s.where[member] = uint16(len(s.members))
	s.members = append(s.members, member)
}
