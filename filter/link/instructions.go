package main

import (
	"errors"
	"fmt"
)

// The operands of an instruction (Wasm specification, 5.4).
const (
	noOperand      = iota
	unknownOperand // not an instruction, or one that Go's compiler does not use
	oneNumber      // of up to 64 bits: an index, or a constant
	twoNumbers
	memoryAccess // the alignment, and the offset
	functionIndex
	fourBytes
	eightBytes
	manyNumbers // their count, and one more
	manyTypes   // of values
	oneType     // of a block's or a reference's
	prefix      // a second opcode
)

// operand returns what follows an opcode.
func operand(opcode byte) int {
	switch {
	case opcode >= 0x02 && opcode <= 0x04: // block, loop, if
		return oneType
	case opcode <= 0x01, opcode == 0x05, opcode == opEnd, opcode == opReturn, // unreachable, nop, else
		opcode == opDrop, opcode == 0x1b, opcode == 0xd1, // select, ref.is_null
		opcode >= 0x45 && opcode <= 0xc4: // comparisons, arithmetic and conversions
		return noOperand
	case opcode == 0x0c, opcode == 0x0d, // br, br_if
		opcode >= opLocalGet && opcode <= 0x26, // variables and tables
		opcode == 0x3f, opcode == 0x40,         // memory.size, memory.grow
		opcode == opI32Const, opcode == 0x42: // i32.const, i64.const
		return oneNumber
	case opcode == 0x0e: // br_table
		return manyNumbers
	case opcode == opCall, opcode == 0x12, opcode == 0xd2: // call, return_call, ref.func
		return functionIndex
	case opcode == 0x11, opcode == 0x13: // call_indirect, return_call_indirect
		return twoNumbers
	case opcode >= 0x28 && opcode <= 0x3e: // load, store
		return memoryAccess
	case opcode == 0x1c: // select of a type
		return manyTypes
	case opcode == 0x43: // f32.const
		return fourBytes
	case opcode == 0x44: // f64.const
		return eightBytes
	case opcode == 0xd0: // ref.null
		return oneType
	case opcode == 0xfc:
		return prefix
	}
	return unknownOperand
}

// prefixed returns the number of operands, each a number, of an instruction with the
// prefix 0xfc, or -1 if it is unknown.
func prefixed(opcode uint32) int {
	switch opcode {
	case 0, 1, 2, 3, 4, 5, 6, 7: // conversions
		return 0
	case 9, 11, 13, 15, 16, 17: // data.drop, memory.fill, elem.drop, table.grow, table.size, table.fill
		return 1
	case 8, 10, 12, 14: // memory.init, memory.copy, table.init, table.copy
		return 2
	}
	return -1
}

// instruction copies an instruction, and returns its opcode.
func (c *copier) instruction() (opcode byte) {
	opcode = c.byte()
	switch operand(opcode) {
	case noOperand:
	case oneNumber:
		c.number()
	case oneType: // One byte, or the index of a type.
		if len(c.rest) > 0 {
			oneByte(&c.reader, c.rest[0])
		}
		c.number()
	case twoNumbers:
		c.number()
		c.number()
	case memoryAccess:
		const otherMemory = 0x40
		if c.u32() >= otherMemory {
			c.fail(errors.New("a second memory is not supported"))
		}
		c.number()
	case functionIndex:
		c.function()
	case fourBytes:
		c.bytes(4)
	case eightBytes:
		c.bytes(8)
	case manyNumbers:
		for n := uint64(c.u32()) + 1; n > 0 && c.err == nil; n-- {
			c.number()
		}
	case manyTypes:
		for n := c.u32(); n > 0 && c.err == nil; n-- {
			oneByte(&c.reader, c.byte())
		}
	case prefix:
		second := c.u32()
		n := prefixed(second)
		if n < 0 {
			c.fail(fmt.Errorf("unknown instruction %#x %d", opcode, second))
		}
		for ; n > 0; n-- {
			c.number()
		}
	default:
		c.fail(fmt.Errorf("unknown instruction %#x", opcode))
	}
	return opcode
}

// number reads a number of up to 64 bits, with or without sign.
func (c *copier) number() { c.limit() }
