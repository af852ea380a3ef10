package regex

import (
	"errors"
	"unicode/utf8"
)

// The binary form of a Regex is a sequence of numbers, encoded as by
// binary.AppendUvarint, and strings of bytes. It is
//   - formRows or formSets,
//   - the prefix: its length, and the string,
//   - the number of classes,
//   - the number of ranges of characters; then for each, without gaps and beginning
//     with U+0000: the length of the range before, which is 0 for the first, and its class,
//   - for formRows: the number of states, and for each state: twice the number of its
//     pairs, or of maxPairs+1 if the row is dense, plus 1 if the value may end; then as in
//     Regex.rows, but with the number of a state instead of the index of its row,
//   - for formSets: the number of words; the words of Regex.sets; the number of guards, and
//     for each its conditions and words; the number of jumps, and for each, twice: the first
//     word, the number of words, and the words.
const (
	formRows = iota
	formSets
)

var errInvalid = errors.New("invalid compiled regex")

// Read decodes what AppendBinary returned. It accepts any data: what it returns takes
// memory proportional to the length of data, and time as MaxValue says. It keeps no
// reference to data.
func Read(data []byte) (*Regex, error) {
	in := reader{data: data}
	made := &Regex{}
	form := in.number(formSets)
	made.prefix = string(in.bytes(in.number(len(data))))
	made.classes = in.number(maxClasses)
	in.readClasses(made)
	switch {
	case in.failed:
	case form == formRows:
		in.readRows(made)
	default:
		in.readSets(made)
	}
	if in.failed || len(in.data) > 0 {
		return nil, errInvalid
	}
	made.limit()
	return made, nil
}

// reader consumes data. After an error, it has failed, and returns zeros.
type reader struct {
	data   []byte
	failed bool
}

func (in *reader) fail() int {
	in.data, in.failed = nil, true
	return 0
}

// word reads a number of up to 64 bits. Without the directive, the code of the filter would
// have more than thirty copies of it.
//
//go:noinline
func (in *reader) word() uint64 {
	word := uint64(0)
	for i, b := range in.data {
		if i == 10 {
			break
		}
		word |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			in.data = in.data[i+1:]
			return word
		}
	}
	in.fail()
	return 0
}

// number reads a number up to limit.
//
//go:noinline
func (in *reader) number(limit int) int {
	if n := in.word(); n <= uint64(limit) {
		return int(n)
	}
	return in.fail()
}

// words reads n words, and appends them to a slice.
func (in *reader) words(to []uint64, n int) []uint64 {
	if n > len(in.data) {
		in.fail()
		return to
	}
	if to == nil {
		to = make([]uint64, 0, n)
	}
	for range n {
		to = append(to, in.word())
	}
	return to
}

// index reads a number less than limit.
func (in *reader) index(limit int) int {
	if limit == 0 {
		return in.fail()
	}
	return in.number(limit - 1)
}

// count reads a number of items, each of which takes size bytes or more.
func (in *reader) count(size int) int { return in.number(len(in.data) / size) }

func (in *reader) bytes(n int) []byte {
	if n > len(in.data) {
		in.fail()
		return nil
	}
	read := in.data[:n]
	in.data = in.data[n:]
	return read
}

func (in *reader) readClasses(made *Regex) {
	ranges := in.count(2)
	// A range that begins in ASCII can continue behind it.
	made.others = make([]uint32, 0, ranges+1)
	first, class := 0, 0
	for i := range ranges {
		length := in.number(utf8.MaxRune)
		if (length == 0) != (i == 0) || first+length > utf8.MaxRune {
			in.fail()
			return
		}
		made.addRange(first, first+length, class)
		first += length
		class = in.index(made.classes)
	}
	if ranges == 0 {
		in.fail()
	}
	made.addRange(first, utf8.MaxRune+1, class)
}

// addRange adds a range of characters, from first up to, but not including, end.
func (r *Regex) addRange(first, end, class int) {
	for ; first < min(end, len(r.ascii)); first++ {
		r.ascii[first] = uint8(class)
	}
	if n := len(r.others); first < end && (n == 0 || int(r.others[n-1]%maxClasses) != class) {
		r.others = append(r.others, uint32(first*maxClasses+class))
	}
}

func (in *reader) readRows(made *Regex) {
	states := in.count(2)
	// The first pass finds where the rows begin.
	again, length := in.data, 0
	index := make([]uint16, states)
	for i := range index {
		index[i] = uint16(length)
		pairs := in.number(2*(maxPairs+1)+1) / 2
		row := 2 + 2*pairs
		if pairs > maxPairs {
			row = 1 + made.classes
		}
		if length += row; length > maxRows {
			in.fail()
			return
		}
		for range row - 1 {
			in.number(maxRows)
		}
	}
	if states == 0 || in.failed {
		in.fail()
		return
	}
	in.data = again
	state := func() uint16 { return index[in.index(states)] }
	rows := make([]uint16, 0, length)
	for range states {
		head := in.number(2*(maxPairs+1) + 1)
		pairs, ends := head/2, uint16(head%2*accepts)
		if pairs > maxPairs {
			rows = append(rows, dense|ends)
			for range made.classes {
				rows = append(rows, state())
			}
			continue
		}
		rows = append(rows, uint16(pairs)|ends, state())
		for range pairs {
			class := in.index(made.classes)
			rows = append(rows, uint16(class), state())
		}
	}
	made.rows = rows
}

func (in *reader) readSets(made *Regex) {
	made.words = in.count(1)
	if made.words == 0 || made.words > maxWords {
		in.fail()
		return
	}
	made.sets = in.words(nil, made.words*(classSets+made.classes))
	made.guards = make([]guard, in.count(1+made.words))
	for i := range made.guards {
		conditions := uint16(in.number(allConditions))
		made.guards[i] = guard{conditions, in.words(nil, made.words)}
	}
	total := in.count(1)
	made.jumps = make([]uint64, 0, total)
	for !in.failed && len(made.jumps) < total {
		head := len(made.jumps)
		made.jumps = append(made.jumps, 0)
		for shift := 0; shift < 64; shift += 32 {
			first := in.index(made.words)
			count := in.number(min(made.words-first, total-len(made.jumps)))
			made.jumps[head] |= uint64(first|count<<16) << shift
			made.jumps = in.words(made.jumps, count)
		}
	}
}
