//go:build !wasm

package regex

import (
	"encoding/binary"
	"iter"
)

// Steps returns the number of states of an automaton, or else the number of words of sets
// that a match visits for each character.
func (r *Regex) Steps() int {
	if r.rows == nil {
		return r.work()
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
	const header = 400
	words := len(r.sets) + len(r.jumps) + 2*r.words + (4+r.words)*len(r.guards)
	return header + len(r.prefix) + 4*len(r.others) + 2*len(r.rows) + 8*words
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
	if r.rows == nil {
		form = formSets
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
	words := func(words []uint64) {
		for _, word := range words {
			b = binary.AppendUvarint(b, word)
		}
	}
	add(r.words)
	words(r.sets)
	add(len(r.guards))
	for _, guard := range r.guards {
		add(int(guard.conditions))
		words(guard.positions)
	}
	add(len(r.jumps))
	for jumps := r.jumps; len(jumps) > 0; {
		from, to, rest := split(jumps)
		for _, part := range []part{from, to} {
			add(part.first, len(part.words))
			words(part.words)
		}
		jumps = rest
	}
	return b, nil
}
