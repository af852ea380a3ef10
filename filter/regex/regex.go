// Package regex matches whole values against RE2 expressions that were compiled
// elsewhere. The daemon compiles an expression; the filter reads the result and executes
// it, without a parser, without tables of Unicode, and exactly as Go's package regexp
// would.
//
// An expression compiles to a minimal deterministic automaton if that is small, as it is
// for almost every expression on paths and headers. A match then takes one step for each
// character. Otherwise it compiles to sets of the positions in the expression, with one bit
// each. A match then follows all positions in parallel, in a time for each character that
// is known beforehand.
//
// Neither sees characters, but classes: the expression treats all characters of a class
// alike. A byte that is not valid UTF-8 counts as U+FFFD, as in Go.
package regex

import "math"

// maxWork limits what a match does: see work. In V8 that takes up to 10 ms, for which the
// match blocks a worker thread of Envoy.
const maxWork = 6_000_000

// Regex is a compiled expression. Methods of one Regex must not be called concurrently.
type Regex struct {
	// effort is what Effort returns. Read does not set it.
	effort int
	prefix string
	// classes is the number of classes. ascii has the class of each ASCII character.
	// others has a range of other characters in each item, in ascending order: the
	// first one times maxClasses, plus the class. The range ends before the next one.
	classes int
	ascii   [128]uint8
	others  []uint32
	// rows has the states of an automaton, one after the other, the first one first. A
	// state is the index of its row. The automaton gets what follows the prefix. A row
	// begins with a head, which is accepts, if the value may end in this state, plus
	//   - n up to maxPairs: the state that follows by default, and n pairs of a class
	//     and the state that follows it instead; or
	//   - dense: the state that follows each class.
	rows []uint16
	// sets has sets of positions instead, of words words each: startSet and so on, and from
	// classSets on, one for each class. guards and jumps complete them: see run.
	words  int
	sets   []uint64
	guards []guard
	jumps  []uint64
	// longest is what MaxValue returns.
	longest int
	// now and next are the scratch memory of run.
	now, next []uint64
}

// Effort says how much work Compile had with the expression: a million takes some ten
// milliseconds. It depends on the expression alone.
func (r *Regex) Effort() int { return r.effort }

const (
	// maxClasses limits the classes of an expression.
	maxClasses = 1 << 11
	// maxWords limits the words of a set of positions.
	maxWords = 1 << 10
	// maxRows limits the length of Regex.rows, because a state has 16 bits.
	maxRows = 1 << 16

	accepts  = 1 << 15
	dense    = accepts - 1
	maxPairs = 32
)

// The sets in Regex.sets.
const (
	// startSet has the positions before the first character.
	startSet = iota
	// endSet has the positions at which the value may end.
	endSet
	// staySet, moveSet and skipSet have the positions from which a character leads to the
	// same position, to the next one, and to the one after that.
	staySet
	moveSet
	skipSet
	// From here on, there is for each class the set of the positions at which the
	// expression lets a character of the class through.
	classSets
)

// guard has positions that count only if conditions hold between the characters before and
// after.
type guard struct {
	conditions uint16
	positions  []uint64
}

// Conditions between two characters, with the values that regexp/syntax gives them.
const (
	beginLine = 1 << iota
	endLine
	beginText
	endText
	wordBoundary
	noWordBoundary
	allConditions = 1<<iota - 1
)

// kind is what conditions distinguish in a character.
type kind uint8

const (
	// noCharacter is before the first character and after the last one.
	noCharacter kind = iota
	newline
	word
	other
)

func kindOf(r rune) kind {
	switch {
	case r == '\n':
		return newline
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_':
		return word
	}
	return other
}

// between returns the conditions that hold between two characters.
func between(before, after kind) uint16 {
	conditions := uint16(noWordBoundary)
	if (before == word) != (after == word) {
		conditions = wordBoundary
	}
	switch before {
	case noCharacter:
		conditions |= beginText | beginLine
	case newline:
		conditions |= beginLine
	}
	switch after {
	case noCharacter:
		conditions |= endText | endLine
	case newline:
		conditions |= endLine
	}
	return conditions
}

// Prefix returns a prefix of every value that the expression matches. It may be empty.
func (r *Regex) Prefix() string { return r.prefix }

// MaxValue returns the maximum length, in bytes, of a value that the expression is run on:
// a longer value does not match, because the match would block a worker thread of Envoy for
// too long. It is math.MaxInt for an automaton. Otherwise it is far above 60 KiB, Envoy's
// default limit for all headers of a request, except for some expressions that leave
// hundreds of ways open at once.
func (r *Regex) MaxValue() int { return r.longest }

// work returns how much run does for a character, at most. The unit is a visit of a word
// of a set, which takes 1.5 ns in V8.
func (r *Regex) work() int {
	const perCharacter, perJump = 6, 4
	n := perCharacter + r.words*(classSets+1+len(r.guards)) + len(r.jumps)
	for jumps := r.jumps; len(jumps) > 0; n += perJump {
		_, _, jumps = split(jumps)
	}
	return n
}

// limit sets longest.
func (r *Regex) limit() {
	r.longest = math.MaxInt
	if r.rows == nil {
		r.longest = maxWork / r.work()
	}
}

// Match reports whether the expression matches the whole value, which must not be longer
// than MaxValue. Only the first call of a Regex allocates memory.
func (r *Regex) Match(value string) bool {
	n := len(r.prefix)
	if len(value) < n || value[:n] != r.prefix {
		return false
	}
	if r.rows != nil {
		return r.walk(value[n:])
	}
	return len(value) <= r.longest && r.run(value)
}

// class returns the class of a character.
func (r *Regex) class(char rune) int {
	if char < rune(len(r.ascii)) {
		return int(r.ascii[char])
	}
	// low is the last range that does not begin after the character. The first range
	// begins with the first character that is not ASCII.
	low, high := 0, len(r.others)
	for high-low > 1 {
		middle := int(uint(low+high) / 2)
		if rune(r.others[middle]/maxClasses) <= char {
			low = middle
		} else {
			high = middle
		}
	}
	return int(r.others[low] % maxClasses)
}

// walk runs the automaton.
func (r *Regex) walk(value string) bool {
	rows, state := r.rows, 0
	for _, char := range value {
		class := r.class(char)
		pairs := int(rows[state] &^ accepts)
		if pairs == dense {
			state = int(rows[state+1+class])
			continue
		}
		next := int(rows[state+1])
		if pairs == 0 && next == state {
			// No character leads out of this state.
			break
		}
		for i := state + 2; i < state+2+2*pairs; i += 2 {
			if int(rows[i]) == class {
				next = int(rows[i+1])
				break
			}
		}
		state = next
	}
	return rows[state]&accepts != 0
}

// run keeps the set of the positions in the expression to which the characters so far lead.
// A character of a class leads from those of them that are in the set of the class to others:
// near ones, by staySet, moveSet and skipSet, and any others, by jumps. A jump has a set of
// positions, and the set of the positions that any of these leads to: see split.
func (r *Regex) run(value string) bool {
	words := r.words
	if r.now == nil {
		scratch := make([]uint64, 2*words)
		r.now, r.next = scratch[:words:words], scratch[words:]
	}
	now, next := r.now, r.next
	stays, moves, skips := r.set(staySet), r.set(moveSet), r.set(skipSet)
	copy(now, r.set(startSet))
	before := noCharacter
	for _, char := range value {
		if len(r.guards) > 0 {
			after := kindOf(char)
			r.check(now, between(before, after))
			before = after
		}
		lets := r.set(classSets + r.class(char))
		// some has any position that lets the character through.
		var some, carry uint64
		for i := range next {
			in := now[i] & lets[i]
			now[i] = in
			some |= in
			move, skip := in&moves[i], in&skips[i]
			next[i] = in&stays[i] | move<<1 | skip<<2 | carry
			carry = move>>63 | skip>>62
		}
		if some == 0 {
			return false
		}
		for jumps := r.jumps; len(jumps) > 0; {
			var from, to part
			from, to, jumps = split(jumps)
			some = 0
			for i, in := range from.words {
				some |= in & now[from.first+i]
			}
			if some != 0 {
				for i, in := range to.words {
					next[to.first+i] |= in
				}
			}
		}
		now, next = next, now
	}
	r.check(now, between(before, noCharacter))
	for i, in := range r.set(endSet) {
		if in&now[i] != 0 {
			return true
		}
	}
	return false
}

func (r *Regex) set(index int) []uint64 { return r.sets[index*r.words:][:r.words] }

// check removes the positions whose conditions do not hold.
func (r *Regex) check(now []uint64, conditions uint16) {
	for i := range r.guards {
		if guard := &r.guards[i]; guard.conditions&^conditions != 0 {
			for i, in := range guard.positions {
				now[i] &^= in
			}
		}
	}
}

// part is a part of a set of positions, which begins at a word. The other words are 0.
type part struct {
	first int
	words []uint64
}

// split returns the first of jumps, and the others. The head of a jump has four numbers of
// 16 bits: the first word and the number of words of both parts that follow.
func split(jumps []uint64) (from, to part, rest []uint64) {
	head := jumps[0]
	middle := 1 + int(head>>16&0xffff)
	end := middle + int(head>>48)
	from = part{int(head & 0xffff), jumps[1:middle]}
	to = part{int(head >> 32 & 0xffff), jumps[middle:end]}
	return from, to, jumps[end:]
}
