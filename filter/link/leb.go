package main

import (
	"encoding/binary"
	"errors"
)

var (
	errShort  = errors.New("it ends too early")
	errNumber = errors.New("a number in it does not fit 32 bits")
)

// A reader takes values off the front of some bytes. After the first error,
// which it keeps, every value is zero; so a caller may check once, after
// several reads, as long as its loops end when err is set.
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

// byte takes one byte.
func (r *reader) byte() byte {
	if len(r.rest) == 0 {
		r.fail(errShort)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

// u32 takes a number in LEB128, as the Wasm specification (5.2.2) bounds it:
// five bytes at most, and no bit beyond the 32nd.
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

// limit skips a limit of a memory or table, which can have 64 bits.
func (r *reader) limit() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail(errNumber)
}

// bytes takes the next n bytes. They stay part of what the reader reads from.
func (r *reader) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(r.rest)) {
		r.fail(errShort)
		return nil
	}
	taken := r.rest[:n:n]
	r.rest = r.rest[n:]
	return taken
}

// sized takes bytes that stand behind their own count: a name, a section.
func (r *reader) sized() []byte {
	return r.bytes(r.u32())
}

// appendU32 appends a number in LEB128, in as few bytes as it takes.
func appendU32(to []byte, value uint32) []byte {
	return binary.AppendUvarint(to, uint64(value))
}

// appendSized appends bytes behind their own count.
func appendSized(to, data []byte) []byte {
	return append(appendU32(to, uint32(len(data))), data...)
}
