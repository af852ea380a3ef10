package main

import (
	"bytes"
	"errors"
	"fmt"
)

// wasi is the module that Go's runtime and its packages syscall and os import from.
const wasi = "wasi_snapshot_preview1"

// The results of WASI's functions that the replacements return.
const (
	wasiSuccess = 0
	wasiBADF    = 8  // there is no such file
	wasiNOSYS   = 52 // not supported
)

// replacement is a function of WASI that the rewritten module has itself.
type replacement struct {
	name      string
	signature *funcType
	body      func() code
}

// replacements are the functions that Go imports and that a filter, which has no
// files and does not wait, has no use for. Older Envoys lack some of them, and do not
// allow others at some times, at which a call ends the VM:
//
//   - Envoy 1.32 has no poll_oneoff, sched_yield and fd_fdstat_set_flags, and does not
//     allow fd_fdstat_get while the VM starts.
//   - In Envoy before 1.39, poll_oneoff fails, which is fatal to Go, and is not allowed
//     in proxy_on_memory_allocate. Go calls it when there is a timer and a garbage
//     collection has to wait.
//   - The others are there, and not allowed in proxy_on_memory_allocate.
var replacements = []replacement{
	{"poll_oneoff", signature(4, 1), pollNothing},
	{"sched_yield", signature(0, 1), returns(wasiSuccess)},
	{"fd_close", signature(1, 1), returns(wasiBADF)},
	{"fd_fdstat_get", signature(2, 1), returns(wasiBADF)},
	{"fd_fdstat_set_flags", signature(2, 1), returns(wasiNOSYS)},
	{"fd_prestat_get", signature(2, 1), returns(wasiBADF)},
	{"fd_prestat_dir_name", signature(3, 1), returns(wasiBADF)},
}

// returns returns a function with a constant result.
func returns(result uint32) func() code {
	return func() (c code) {
		c.op(opI32Const, result)
		return c
	}
}

// pollNothing is poll_oneoff as in Envoy 1.39 and later: it returns at once, without
// events. Go then looks itself which of its timers have expired.
//
//	*nevents = 0
//	return 0
func pollNothing() (c code) {
	const nevents = 3
	c.op(opLocalGet, nevents)
	c.op(opI32Const, 0)
	c.op(opI32Store, 2, 0) // aligned to 2² bytes, with offset 0
	c.op(opI32Const, wasiSuccess)
	return c
}

// replaceImports replaces the imports that are in replacements by functions of the
// module. The index of a function changes, as the imported ones come first, so every
// index in the module is adapted.
func (m *module) replaceImports() error {
	section := m.section(sectionImport)
	if section == nil {
		return nil
	}
	var (
		rest  []byte // the imports that remain, encoded
		count uint32 // the number of them
		added []replacement
		// functions has the types of the remaining functions, and index the new index
		// of each function. Those of replaced imports are set at the end.
		functions []uint32
		index     = make([]uint32, len(m.functions))
		replaced  []int
	)
	r := &reader{rest: *section}
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		item := r.rest
		i := r.importItem()
		function := len(functions) + len(replaced)
		if i.kind == kindFunction {
			t := m.types[r.u32()]
			if with := i.replacement(); with != nil {
				if t != *with.signature {
					return fmt.Errorf("the import %s is a function %v, want %v", i.name, t, with.signature)
				}
				added, replaced = append(added, *with), append(replaced, function)
				continue
			}
			index[function] = uint32(len(functions))
			functions = append(functions, m.functions[function])
		}
		rest = append(rest, item[:len(item)-len(r.rest)]...)
		count++
	}
	if len(added) == 0 {
		return nil
	}
	*section = append(appendU32(nil, count), rest...)

	for old := len(functions) + len(replaced); old < len(m.functions); old++ {
		index[old] = uint32(len(functions))
		functions = append(functions, m.functions[old])
	}
	m.functions = functions
	for i, old := range replaced {
		index[old] = m.addFunction(*added[i].signature, added[i].body())
	}
	return m.renumber(index, len(added))
}

// replacement returns the replacement of an imported function, or nil.
func (i importItem) replacement() *replacement {
	for at := range replacements {
		if i.from == wasi && i.name == replacements[at].name {
			return &replacements[at]
		}
	}
	return nil
}

// renumber replaces each index of a function by index[it], except in the last
// functions of the code section, which have none.
func (m *module) renumber(index []uint32, except int) error {
	for i := range m.exports {
		if e := &m.exports[i]; e.kind == kindFunction {
			e.index = index[e.index]
		}
	}
	for _, in := range []struct {
		id   byte
		list bool
		item func(c *copier)
	}{
		{sectionTable, true, (*copier).tableWithoutInit},
		{sectionGlobal, true, (*copier).global},
		{sectionStart, false, (*copier).function},
		{sectionElement, true, (*copier).elements},
		{sectionCode, true, (*copier).body},
	} {
		section := m.section(in.id)
		if section == nil {
			continue
		}
		c := newCopier(*section, index)
		n := uint32(1)
		if in.list {
			n = c.u32()
		}
		if in.id == sectionCode {
			n -= uint32(except)
		}
		for ; n > 0 && c.err == nil; n-- {
			in.item(c)
		}
		if c.err != nil {
			return within(in.id, c.err)
		}
		c.rest = nil // The rest is copied.
		*section = c.finish()
	}
	m.removeNames()
	return nil
}

// removeNames removes the section with the names of functions, which has indices too
// and is only for people.
func (m *module) removeNames() {
	var rest []section
	for _, s := range m.sections {
		if s.id == sectionCustom {
			r := &reader{rest: s.body}
			if bytes.Equal(r.sized(), []byte("name")) {
				continue
			}
		}
		rest = append(rest, s)
	}
	m.sections = rest
}

// copier copies what its reader reads, with other indices of functions.
type copier struct {
	reader
	index []uint32
	out   []byte
	// from is where the part begins that is read and not copied yet.
	from []byte
}

func newCopier(data []byte, index []uint32) *copier {
	return &copier{reader: reader{rest: data}, index: index, from: data}
}

// flush copies what has been read.
func (c *copier) flush() {
	c.out = append(c.out, c.from[:len(c.from)-len(c.rest)]...)
	c.from = c.rest
}

// finish returns the copy.
func (c *copier) finish() []byte {
	c.flush()
	return c.out
}

// function reads the index of a function and writes its new one.
func (c *copier) function() {
	c.flush()
	old := c.u32()
	if c.err == nil && uint64(old) >= uint64(len(c.index)) {
		c.fail(fmt.Errorf("function %d is used, but there are %d functions", old, len(c.index)))
	}
	if c.err != nil {
		return
	}
	c.out = appendU32(c.out, c.index[old])
	c.from = c.rest
}

// tableWithoutInit copies a table. One with an initial value begins with 0x40.
func (c *copier) tableWithoutInit() {
	if len(c.rest) > 0 && c.rest[0] == 0x40 {
		c.fail(errors.New("tables with an initial value are not supported"))
	}
	c.table()
}

// global copies a global with its initial value.
func (c *copier) global() {
	c.globalType()
	c.constant()
}

// elements copies an element segment (5.5.12).
func (c *copier) elements() {
	const (
		passive     = 1 // or declarative, without table and offset
		explicit    = 2 // with a table, or declarative
		expressions = 4
	)
	flags := c.u32()
	if flags > passive|explicit|expressions {
		c.fail(fmt.Errorf("unknown kind %d of an element segment", flags))
	}
	if flags&(passive|explicit) == explicit {
		c.u32()
	}
	if flags&passive == 0 {
		c.constant()
	}
	if flags&(passive|explicit) != 0 {
		oneByte(&c.reader, c.byte()) // The kind or the type of the elements.
	}
	for n := c.u32(); n > 0 && c.err == nil; n-- {
		if flags&expressions != 0 {
			c.constant()
		} else {
			c.function()
		}
	}
}

// body copies the body of a function, whose size may change.
func (c *copier) body() {
	c.flush()
	inner := newCopier(c.sized(), c.index)
	c.from = c.rest
	for n := inner.u32(); n > 0 && inner.err == nil; n-- { // The groups of locals.
		inner.u32()
		oneByte(&inner.reader, inner.byte())
	}
	for len(inner.rest) > 0 {
		inner.instruction()
	}
	if inner.err != nil {
		c.fail(inner.err)
		return
	}
	c.out = appendSized(c.out, inner.finish())
}

// constant copies a constant expression.
func (c *copier) constant() {
	for c.err == nil && c.instruction() != opEnd {
	}
}
