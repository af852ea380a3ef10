package main

import (
	"encoding/binary"
	"errors"
)

var (
	errShort  = errors.New("unexpected end")
	errNumber = errors.New("a number does not fit into 32 bits")
)

// reader reads values from bytes. It keeps the first error, after which every value
// is zero. So a caller may check err once, after several reads, as long as its loops
// end when err is set.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

// byte reads one byte.
func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail(errShort)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// u32 reads a number in LEB128 with the limits of the Wasm specification (5.2.2): at
// most five bytes and 32 bits.
func (r *reader) u32() uint32 {
	var value uint32
	for shift := 0; shift < 35; shift += 7 {
		b := r.byte()
		if shift == 28 && b > 0x0f {
			break
		}
		value |= uint32(b&0x7f) << shift
		if b < 0x80 {
			return value
		}
	}
	r.fail(errNumber)
	return 0
}

// limit skips a limit of a memory or table, which may have 64 bits.
func (r *reader) limit() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail(errNumber)
}

// bytes reads n bytes. The result is not a copy.
func (r *reader) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(r.rest)) {
		r.fail(errShort)
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

// sized reads bytes that are preceded by their count, such as a name or a section.
func (r *reader) sized() []byte {
	return r.bytes(r.u32())
}

// appendU32 appends a number in LEB128, in as few bytes as possible.
func appendU32(to []byte, value uint32) []byte {
	return binary.AppendUvarint(to, uint64(value))
}

// appendSized appends bytes, preceded by their count.
func appendSized(to, data []byte) []byte {
	return append(appendU32(to, uint32(len(data))), data...)
}
