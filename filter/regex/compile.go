//go:build !wasm

package regex

import (
	"encoding/binary"
	"fmt"
	"iter"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The limits on what an expression compiles to are far above what paths and headers need.
// They bound what an expression costs the daemon, which compiles it, and each filter,
// which holds it.
const (
	// maxSteps limits the steps of an expression: see steps.
	maxSteps = 1000
	// maxSize limits the size, in bytes, of a compiled expression in a filter.
	maxSize = 32 << 10
)

// Compile compiles an expression in the syntax of RE2. It has to match the whole value.
func Compile(expression string) (*Regex, error) {
	tree, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	if n := steps(tree); n > maxSteps {
		return nil, fmt.Errorf("regex %q: it has %d steps, with repetitions multiplied out; the limit is %d", expression, n, maxSteps)
	}
	whole, err := syntax.Parse(`\A(?:`+expression+`)\z`, syntax.Perl)
	if err != nil {
		// The expression has a \Q without \E.
		whole, err = syntax.Parse(`\A(?:`+expression+`\E)\z`, syntax.Perl)
	}
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	prog, err := syntax.Compile(whole.Simplify())
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	made, err := compile(prog)
	if err != nil {
		return nil, fmt.Errorf("regex %q: %w", expression, err)
	}
	if made.rows == nil {
		made.prefix = literalPrefix(tree)
	}
	if size := made.Size(); size > maxSize {
		return nil, fmt.Errorf("regex %q: it compiles to %d bytes; the limit is %d", expression, size, maxSize)
	}
	return made, nil
}

// steps returns an upper estimate of the number of instructions that an expression
// compiles to. The parser limits nested repetitions to 1,000 in total.
func steps(tree *syntax.Regexp) int {
	n := 1
	switch tree.Op {
	case syntax.OpLiteral:
		return len(tree.Rune)
	case syntax.OpRepeat:
		return (1 + steps(tree.Sub[0])) * max(1, tree.Min, tree.Max)
	case syntax.OpCapture, syntax.OpStar:
		n = 2
	case syntax.OpAlternate:
		n = len(tree.Sub)
	}
	for _, sub := range tree.Sub {
		n += steps(sub)
	}
	return n
}

// literalPrefix returns a prefix of every string that the whole expression matches.
func literalPrefix(tree *syntax.Regexp) string {
	switch tree.Op {
	case syntax.OpLiteral:
		if tree.Flags&syntax.FoldCase != 0 {
			return ""
		}
		literal := string(tree.Rune)
		// The expression also matches bytes that are not UTF-8 with this rune.
		before, _, _ := strings.Cut(literal, string(utf8.RuneError))
		return before
	case syntax.OpCapture:
		return literalPrefix(tree.Sub[0])
	case syntax.OpConcat:
		for _, sub := range tree.Sub {
			switch sub.Op {
			case syntax.OpBeginText, syntax.OpBeginLine, syntax.OpEmptyMatch:
				// Matches the start of the text anyway.
			default:
				return literalPrefix(sub)
			}
		}
	}
	return ""
}

// compile compiles a program, which begins with \A and ends with \z.
func compile(prog *syntax.Prog) (*Regex, error) {
	classes := classify(prog)
	if len(classes.kinds) > maxClasses {
		return nil, fmt.Errorf("it distinguishes %d classes of characters; the limit is %d", len(classes.kinds), maxClasses)
	}
	made := &Regex{classes: len(classes.kinds)}
	made.translate(prog, classes)
	if states := determine(made, classes.kinds); states != nil {
		states.minimize()
		prefix := states.skipPrefix(classes)
		if automaton := states.regex(prefix, classes); automaton != nil {
			return automaton, nil
		}
	}
	classes.store(made, nil)
	return made, nil
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
		key := string(binary.LittleEndian.AppendUint32(nil, uint32(len(pairs))))
		for _, char := range pairs {
			key += string(binary.LittleEndian.AppendUint32(nil, uint32(char)))
		}
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

// translate sets code and sets.
func (r *Regex) translate(prog *syntax.Prog, classes *classes) {
	// numbers has the number that each instruction has in code.
	numbers := map[uint32]uint16{}
	var found []uint32
	number := func(pc uint32) uint16 {
		for op := prog.Inst[pc].Op; op == syntax.InstNop || op == syntax.InstCapture; op = prog.Inst[pc].Op {
			pc = prog.Inst[pc].Out
		}
		n, ok := numbers[pc]
		if !ok {
			n = uint16(len(found))
			numbers[pc] = n
			found = append(found, pc)
		}
		return n
	}
	stored := map[string]uint16{}
	number(uint32(prog.Start))
	for i := 0; i < len(found); i++ {
		inst := &prog.Inst[found[i]]
		var made instruction
		switch inst.Op {
		case syntax.InstMatch:
			made.op = opMatch
		case syntax.InstFail:
			// These conditions never hold together.
			made = instruction{op: opIf, argument: wordBoundary | noWordBoundary}
		case syntax.InstAlt, syntax.InstAltMatch:
			made = instruction{op: opEither, next: number(inst.Out), argument: number(inst.Arg)}
		case syntax.InstEmptyWidth:
			made = instruction{op: opIf, next: number(inst.Out), argument: uint16(inst.Arg)}
		default:
			key := classes.sets[int(found[i])]
			members := classes.members[key]
			made = instruction{op: opSet, next: number(inst.Out)}
			if len(members) == 1 {
				made.op, made.argument = opClass, uint16(members[0])
				break
			}
			index, ok := stored[key]
			if !ok {
				index = uint16(len(stored))
				stored[key] = index
				set := make([]byte, setSize(r.classes))
				for _, class := range members {
					set[class/8] |= 1 << (class % 8)
				}
				r.sets = append(r.sets, set...)
			}
			made.argument = index
		}
		r.code = append(r.code, made)
	}
}

// Steps returns the number of states or instructions that the expression compiled to.
func (r *Regex) Steps() int {
	if r.code != nil {
		return len(r.code)
	}
	n := 0
	for range r.eachRow() {
		n++
	}
	return n
}

// Size returns the approximate number of bytes that the compiled expression takes in a
// filter.
func (r *Regex) Size() int {
	const (
		header      = 400
		instruction = 6 + 8 // with the scratch memory
	)
	return header + len(r.prefix) + 4*len(r.others) + 2*len(r.rows) + instruction*len(r.code) + len(r.sets)
}

// eachRow iterates over the indexes of the rows of an automaton, and their lengths.
func (r *Regex) eachRow() iter.Seq2[int, int] {
	return func(yield func(int, int) bool) {
		for at := 0; at < len(r.rows); {
			length := 1 + r.classes
			if pairs := int(r.rows[at] &^ accepts); pairs != dense {
				length = 2 + 2*pairs
			}
			if !yield(at, length) {
				return
			}
			at += length
		}
	}
}

// AppendBinary appends the form that Read reads. It implements encoding.BinaryAppender,
// and its error is always nil.
func (r *Regex) AppendBinary(b []byte) ([]byte, error) {
	add := func(numbers ...int) {
		for _, n := range numbers {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	form := formRows
	if r.code != nil {
		form = formCode
	}
	add(form, len(r.prefix))
	b = append(b, r.prefix...)
	add(r.classes)
	var lengths, classes []int
	last := 0
	begin := func(first, class int) {
		if n := len(classes); n == 0 || classes[n-1] != class {
			lengths, classes = append(lengths, first-last), append(classes, class)
			last = first
		}
	}
	for first, class := range r.ascii {
		begin(first, int(class))
	}
	for _, item := range r.others {
		begin(int(item/maxClasses), int(item%maxClasses))
	}
	add(len(classes))
	for i := range classes {
		add(lengths[i], classes[i])
	}
	if form == formRows {
		states := map[uint16]int{}
		for at := range r.eachRow() {
			states[uint16(at)] = len(states)
		}
		add(len(states))
		for at, length := range r.eachRow() {
			row := r.rows[at : at+length]
			ends := int(row[0] / accepts)
			if pairs := int(row[0] &^ accepts); pairs != dense {
				add(2*pairs+ends, states[row[1]])
				for i := 2; i < length; i += 2 {
					add(int(row[i]), states[row[i+1]])
				}
				continue
			}
			add(2*(maxPairs+1) + ends)
			for _, next := range row[1:] {
				add(states[next])
			}
		}
		return b, nil
	}
	add(len(r.sets) / setSize(r.classes))
	b = append(b, r.sets...)
	add(len(r.code))
	for _, at := range r.code {
		add(int(at.op), int(at.next), int(at.argument))
	}
	return b, nil
}
