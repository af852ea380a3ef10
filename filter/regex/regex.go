// Package regex matches whole values against RE2 expressions that were compiled
// elsewhere. The daemon compiles an expression; the filter reads the result and executes
// it, without a parser, without tables of Unicode, and exactly as Go's package regexp
// would.
//
// An expression compiles to a minimal deterministic automaton if that is small, as it is
// for almost every expression on paths and headers. A match then takes one step for each
// character. Otherwise it compiles to instructions, which a match executes in parallel, so
// that its time is at most proportional to their number for each character.
//
// Neither sees characters, but classes: the expression treats all characters of a class
// alike. A byte that is not valid UTF-8 counts as U+FFFD, as in Go.
package regex

import "math"

// maxWork limits the instructions of an expression times the bytes of a value. Matching
// longer values would block a worker thread of Envoy for too long: see MaxValue.
const maxWork = 2_500_000

// Regex is a compiled expression. Methods of one Regex must not be called concurrently.
type Regex struct {
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
	// code has instructions instead, and sets the sets of classes that they refer to:
	// class c is in set n if bit c%8 of byte n*setSize(classes)+c/8 is set.
	code []instruction
	sets []byte
	// now and next are the scratch memory of run.
	now, next set
}

const (
	// maxClasses limits the classes of an expression.
	maxClasses = 1 << 11
	// maxRows limits the length of Regex.rows, because a state has 16 bits.
	maxRows = 1 << 16

	accepts  = 1 << 15
	dense    = accepts - 1
	maxPairs = 32
)

// instruction is an instruction of a nondeterministic automaton.
type instruction struct {
	op operation
	// next is the instruction that follows.
	next uint16
	// argument is a class (opClass), a set (opSet), the other instruction that follows
	// (opEither), or a set of conditions (opIf).
	argument uint16
}

type operation uint16

const (
	// opMatch ends a match.
	opMatch operation = iota
	// opClass continues after a character of a class.
	opClass
	// opSet continues after a character of a set of classes.
	opSet
	// opEither continues in two ways.
	opEither
	// opIf continues if all conditions hold between the characters before and after.
	opIf
)

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
// a longer value does not match. It is math.MaxInt for an expression that compiled to an
// automaton, and not less than 60 KiB, the default limit of Envoy for all headers of a
// request, for one with up to 40 instructions.
func (r *Regex) MaxValue() int {
	if r.code == nil {
		return math.MaxInt
	}
	return maxWork / len(r.code)
}

// Match reports whether the expression matches the whole value, which must not be longer
// than MaxValue. Only the first call of a Regex allocates memory.
func (r *Regex) Match(value string) bool {
	n := len(r.prefix)
	if len(value) < n || value[:n] != r.prefix {
		return false
	}
	if r.code == nil {
		return r.walk(value[n:])
	}
	return len(value) <= r.MaxValue() && r.run(value)
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

// run executes the instructions. It keeps the set of those that the characters so far lead
// to, and visits each of them at most once for each character.
func (r *Regex) run(value string) bool {
	if r.now.where == nil {
		r.now, r.next = newSet(len(r.code)), newSet(len(r.code))
	}
	r.now.members = r.now.members[:0]
	r.now.add(0)
	before := noCharacter
	for _, char := range value {
		after := kindOf(char)
		r.step(r.class(char), between(before, after))
		before = after
		r.now, r.next = r.next, r.now
		if len(r.now.members) == 0 {
			return false
		}
	}
	// The end of the value is in a class of its own, which is in no set.
	return r.step(r.classes, between(before, noCharacter))
}

// step executes the instructions in now on a character, and lets next have those that
// follow. It reports whether the value matches if it ends before the character.
func (r *Regex) step(class int, conditions uint16) bool {
	now, next, matches := r.now, r.next, false
	next.members = next.members[:0]
	size := setSize(r.classes)
	// now grows by the instructions that follow others without a character.
	for i := 0; i < len(now.members); i++ {
		at := &r.code[now.members[i]]
		switch at.op {
		case opMatch:
			matches = true
		case opClass:
			if int(at.argument) == class {
				next.add(at.next)
			}
		case opSet:
			if r.sets[int(at.argument)*size+class/8]>>(class%8)&1 != 0 {
				next.add(at.next)
			}
		case opEither:
			now.add(at.next)
			now.add(at.argument)
		case opIf:
			if at.argument&^conditions == 0 {
				now.add(at.next)
			}
		}
	}
	r.now, r.next = now, next
	return matches
}

// setSize returns the size, in bytes, of a set of classes and the end of the value.
func setSize(classes int) int { return classes/8 + 1 }

// set is a set of instructions. Emptying it takes no time.
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
