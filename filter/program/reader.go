package program

import (
	"math"
	"time"
)

// reader reads text. After an error bad is set, and everything read is zero.
type reader struct {
	text string
	at   int
	// items counts the items of all lists.
	items int
	bad   bool
}

func (r *reader) byte() byte {
	if r.bad || r.at >= len(r.text) {
		r.bad = true
		return 0
	}
	r.at++
	return r.text[r.at-1]
}

// number reads an unsigned varint, as of encoding/binary.
func (r *reader) number() uint64 {
	var n uint64
	for shift := 0; shift < 64; shift += 7 {
		b := r.byte()
		if shift == 63 && b > 1 {
			break
		}
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return n
		}
	}
	r.bad = true
	return 0
}

// count reads the number of items of a list. Each takes a byte at least.
func (r *reader) count() int {
	n := r.number()
	if r.bad || n > uint64(len(r.text)-r.at) || r.items+int(n) > MaxItems {
		r.bad = true
		return 0
	}
	r.items += int(n)
	return int(n)
}

func (r *reader) string() string {
	n := r.number()
	if r.bad || n > uint64(len(r.text)-r.at) {
		r.bad = true
		return ""
	}
	from := r.at
	r.at += int(n)
	return r.text[from:r.at]
}

// part reads a part with its length.
func (r *reader) part() reader {
	text := r.string()
	return reader{text: text, bad: r.bad}
}

// The years 0 to 9999 in seconds since 1970, which is what a policy can have.
const minSeconds, maxSeconds = -62167219200, 253402300799

func (r *reader) time() time.Time {
	zigzag := r.number()
	seconds, nanoseconds := int64(zigzag>>1)^-int64(zigzag&1), r.number()
	if r.bad || seconds < minSeconds || seconds > maxSeconds || nanoseconds >= 1e9 {
		r.bad = true
		return time.Time{}
	}
	return time.Unix(seconds, int64(nanoseconds))
}

// milliseconds returns the longest duration if ms is longer.
func milliseconds(ms uint64) time.Duration {
	if ms >= uint64(math.MaxInt64/time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}
