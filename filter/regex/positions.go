//go:build !wasm

package regex

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// position is a position in an expression: an instruction that tests a character, or the
// end, together with conditions between the characters before and after it.
type position struct {
	pc, conditions uint16
}

// compileSets compiles a program to sets of positions. It returns nil if there are too
// many.
func compileSets(program *program, prefix string) *Regex {
	start := program.reach(program.start, true)
	// after has the positions that follow a character at an instruction.
	after := map[uint16][]position{}
	known := map[position]bool{}
	var all []position
	add := func(positions []position) {
		for _, at := range positions {
			if !known[at] {
				known[at] = true
				all = append(all, at)
			}
		}
	}
	add(start)
	for i := 0; i < len(all); i++ {
		pc := all[i].pc
		if program.code[pc].op == opTest && after[pc] == nil {
			after[pc] = program.reach(program.code[pc].next, false)
			add(after[pc])
		}
	}
	// In the order of the program, most positions are followed by the next one only.
	slices.SortFunc(all, func(a, b position) int {
		return cmp.Or(cmp.Compare(a.pc, b.pc), cmp.Compare(a.conditions, b.conditions))
	})
	numbers := map[position]int{}
	for number, at := range all {
		numbers[at] = number
	}

	classes := len(program.classes.kinds)
	made := &Regex{prefix: prefix, classes: classes, words: max(1, (len(all)+63)/64)}
	if made.words > maxWords || made.words*(classSets+classes) > maxSize/8 {
		return nil
	}
	program.classes.store(made, nil)
	made.sets = make([]uint64, made.words*(classSets+classes))
	for _, at := range start {
		insert(made.set(startSet), numbers[at])
	}
	// A jump leads from some positions to others.
	type jump struct{ from, to []uint64 }
	jumps := map[string]*jump{}
	var order []string
	for number, at := range all {
		if at.conditions != 0 {
			insert(made.guarded(at.conditions), number)
		}
		inst := &program.code[at.pc]
		if inst.op == opMatch {
			insert(made.set(endSet), number)
			continue
		}
		for class, let := range inst.lets {
			if let {
				insert(made.set(classSets+class), number)
			}
		}
		to := make([]uint64, made.words)
		jumping := false
		for _, next := range after[at.pc] {
			n := numbers[next]
			if distance := n - number; 0 <= distance && distance <= 2 {
				insert(made.set(staySet+distance), number)
				continue
			}
			insert(to, n)
			jumping = true
		}
		if !jumping {
			continue
		}
		var key []byte
		for _, word := range to {
			key = binary.LittleEndian.AppendUint64(key, word)
		}
		if jumps[string(key)] == nil {
			jumps[string(key)] = &jump{make([]uint64, made.words), to}
			order = append(order, string(key))
		}
		insert(jumps[string(key)].from, number)
	}
	for _, key := range order {
		from, to := trim(jumps[key].from), trim(jumps[key].to)
		head := from.first | len(from.words)<<16 | to.first<<32 | len(to.words)<<48
		made.jumps = append(made.jumps, uint64(head))
		made.jumps = append(append(made.jumps, from.words...), to.words...)
		if len(made.jumps) > maxSize/8 {
			return nil
		}
	}
	made.limit()
	return made
}

// reach returns the positions that an instruction leads to without a character. The
// beginning of the value is before the instruction, or a character is.
func (p *program) reach(pc uint16, beginning bool) []position {
	found := []position{{pc, 0}}
	known := map[position]bool{found[0]: true}
	add := func(pc, conditions uint16) {
		if at := (position{pc, conditions}); !known[at] {
			known[at] = true
			found = append(found, at)
		}
	}
	var reached []position
	for i := 0; i < len(found); i++ {
		at := found[i]
		switch inst := &p.code[at.pc]; inst.op {
		case opEither:
			add(inst.next, at.conditions)
			add(inst.other, at.conditions)
		case opIf:
			conditions := at.conditions | inst.conditions
			if beginning {
				conditions &^= beginText | beginLine
			}
			const never = wordBoundary | noWordBoundary
			if conditions&beginText == 0 && conditions&never != never {
				add(inst.next, conditions)
			}
		case opTest:
			if at.conditions&endText == 0 {
				reached = append(reached, at)
			}
		case opMatch:
			at.conditions &^= endText | endLine
			reached = append(reached, at)
		}
	}
	// A position without a condition makes those with more conditions needless.
	return slices.DeleteFunc(slices.Clone(reached), func(at position) bool {
		return slices.ContainsFunc(reached, func(less position) bool {
			return less.pc == at.pc && less.conditions != at.conditions && less.conditions&^at.conditions == 0
		})
	})
}

func insert(set []uint64, position int) { set[position/64] |= 1 << (position % 64) }

// guarded returns the set of the positions that a guard with these conditions has.
func (r *Regex) guarded(conditions uint16) []uint64 {
	for _, guard := range r.guards {
		if guard.conditions == conditions {
			return guard.positions
		}
	}
	r.guards = append(r.guards, guard{conditions, make([]uint64, r.words)})
	return r.guards[len(r.guards)-1].positions
}

// trim leaves out the words at the beginning and at the end that are 0.
func trim(set []uint64) part {
	first, end := 0, len(set)
	for first < end && set[first] == 0 {
		first++
	}
	for first < end && set[end-1] == 0 {
		end--
	}
	return part{first, set[first:end]}
}
