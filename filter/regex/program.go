//go:build !wasm

package regex

import (
	"encoding/binary"
	"regexp/syntax"
	"slices"
	"unicode"
)

// program is a program of regexp/syntax that tests classes of characters.
type program struct {
	code    []instruction
	start   uint16
	classes *classes
	// effort is the work that compiling it took.
	effort int
}

type instruction struct {
	op operation
	// next is the instruction that follows, and other the other one (opEither).
	next, other uint16
	// conditions are those of opIf.
	conditions uint16
	// lets has, for each class, whether a character of it is let through (opTest).
	lets []bool
}

type operation uint8

const (
	// opFail ends an attempt without a match.
	opFail operation = iota
	// opMatch ends a match.
	opMatch
	// opTest continues after a character of a set.
	opTest
	// opEither continues in two ways.
	opEither
	// opIf continues if all conditions hold between the characters before and after.
	opIf
)

// translate translates a program.
func translate(prog *syntax.Prog) *program {
	made := &program{code: make([]instruction, len(prog.Inst)), classes: classify(prog)}
	// skip returns the first instruction that does something.
	skip := func(pc uint32) uint16 {
		for op := prog.Inst[pc].Op; op == syntax.InstNop || op == syntax.InstCapture; op = prog.Inst[pc].Op {
			pc = prog.Inst[pc].Out
		}
		return uint16(pc)
	}
	made.start = skip(uint32(prog.Start))
	tests := map[string][]bool{}
	for pc := range prog.Inst {
		inst, to := &prog.Inst[pc], &made.code[pc]
		switch inst.Op {
		case syntax.InstMatch:
			to.op = opMatch
		case syntax.InstAlt, syntax.InstAltMatch:
			*to = instruction{op: opEither, next: skip(inst.Out), other: skip(inst.Arg)}
		case syntax.InstEmptyWidth:
			*to = instruction{op: opIf, next: skip(inst.Out), conditions: uint16(inst.Arg)}
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			key := made.classes.sets[pc]
			if tests[key] == nil {
				lets := make([]bool, len(made.classes.kinds))
				for _, class := range made.classes.members[key] {
					lets[class] = true
				}
				tests[key] = lets
			}
			*to = instruction{op: opTest, next: skip(inst.Out), lets: tests[key]}
		}
	}
	return made
}

// classes are the classes of characters that a program distinguishes.
type classes struct {
	// first has where ranges of characters begin, in ascending order, and class the class
	// of each range. Classes are numbered as they occur, so that those of ASCII
	// characters are less than 128.
	first []rune
	class []int
	// kinds has, for each class, the kind of its characters, as far as the program
	// distinguishes it.
	kinds []kind
	// sets has, for each instruction of the program that is a test of a character, the
	// key of the set of characters, and members the classes in the set with that key.
	sets    map[int]string
	members map[string][]int
}

// classify finds the classes that a program distinguishes.
func classify(prog *syntax.Prog) *classes {
	made := &classes{sets: map[int]string{}, members: map[string][]int{}}
	var words, lines bool
	// A change is a character from which on a set has characters, or has them no more.
	type change struct {
		at  rune
		set int
	}
	var changes []change
	var keys []string
	number := map[string]int{}
	add := func(pairs []rune) string {
		var bytes []byte
		for _, char := range pairs {
			bytes = binary.LittleEndian.AppendUint32(bytes, uint32(char))
		}
		key := string(bytes)
		if _, ok := number[key]; ok {
			return key
		}
		set := len(keys)
		number[key] = set
		keys = append(keys, key)
		made.members[key] = nil
		for i := 0; i < len(pairs); i += 2 {
			changes = append(changes, change{pairs[i], set}, change{pairs[i+1] + 1, set})
		}
		return key
	}
	for pc := range prog.Inst {
		inst := &prog.Inst[pc]
		switch inst.Op {
		case syntax.InstRune, syntax.InstRune1, syntax.InstRuneAny, syntax.InstRuneAnyNotNL:
			made.sets[pc] = add(characters(inst))
		case syntax.InstEmptyWidth:
			if conditions := inst.Arg; conditions&(wordBoundary|noWordBoundary) != 0 && !words {
				words = true
				add([]rune{'0', '9', 'A', 'Z', '_', '_', 'a', 'z'})
			} else if conditions&(beginLine|endLine) != 0 && !lines {
				lines = true
				add([]rune{'\n', '\n'})
			}
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return int(a.at - b.at) })
	// in has the sets that the current character is in.
	in := make([]byte, len(keys))
	known := map[string]int{}
	for at := rune(0); at <= unicode.MaxRune; {
		for len(changes) > 0 && changes[0].at == at {
			in[changes[0].set] ^= 1
			changes = changes[1:]
		}
		class, ok := known[string(in)]
		if !ok {
			class = len(known)
			known[string(in)] = class
			is := kindOf(at)
			if is == word && !words || is == newline && !lines {
				is = other
			}
			made.kinds = append(made.kinds, is)
			for set, has := range in {
				if has != 0 {
					made.members[keys[set]] = append(made.members[keys[set]], class)
				}
			}
		}
		made.first = append(made.first, at)
		made.class = append(made.class, class)
		if len(changes) == 0 {
			break
		}
		at = changes[0].at
	}
	return made
}

// characters returns the characters that an instruction lets through, in pairs of the
// first and the last of a range.
func characters(inst *syntax.Inst) []rune {
	switch inst.Op {
	case syntax.InstRuneAny:
		return []rune{0, unicode.MaxRune}
	case syntax.InstRuneAnyNotNL:
		return []rune{0, '\n' - 1, '\n' + 1, unicode.MaxRune}
	}
	if len(inst.Rune) != 1 {
		return inst.Rune
	}
	only := inst.Rune[0]
	made := []rune{only, only}
	if inst.Op == syntax.InstRune && syntax.Flags(inst.Arg)&syntax.FoldCase != 0 {
		for char := unicode.SimpleFold(only); char != only; char = unicode.SimpleFold(char) {
			made = append(made, char, char)
		}
		slices.Sort(made)
	}
	return made
}

// store stores the classes. If merged is not nil, it has the class that each one has
// become part of.
func (c *classes) store(made *Regex, merged []int) {
	for i, first := range c.first {
		end := rune(unicode.MaxRune + 1)
		if i+1 < len(c.first) {
			end = c.first[i+1]
		}
		class := c.class[i]
		if merged != nil {
			class = merged[class]
		}
		made.addRange(int(first), int(end), class)
	}
}
