package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// The IDs of the sections that this command reads or changes (Wasm specification,
// 5.5.2). It copies the others unchanged.
const (
	sectionCustom   = 0
	sectionType     = 1
	sectionImport   = 2
	sectionFunction = 3
	sectionTable    = 4
	sectionGlobal   = 6
	sectionExport   = 7
	sectionStart    = 8
	sectionElement  = 9
	sectionCode     = 10
)

// sectionNames has every section in the required order, except custom sections,
// which may be anywhere.
var sectionNames = []struct {
	id   byte
	name string
}{
	{sectionType, "type"}, {sectionImport, "import"}, {sectionFunction, "function"}, {sectionTable, "table"}, {5, "memory"}, {13, "tag"},
	{sectionGlobal, "global"}, {sectionExport, "export"}, {sectionStart, "start"}, {sectionElement, "element"}, {12, "data count"},
	{sectionCode, "code"}, {11, "data"},
}

// rank returns the position of a section in the required order, or -1 for an unknown ID.
func rank(id byte) int {
	for i, s := range sectionNames {
		if s.id == id {
			return i
		}
	}
	return -1
}

// The kinds of exports and imports (5.5.5). kindNames has their names.
const (
	kindFunction = 0
	kindTable    = 1
	kindMemory   = 2
	kindGlobal   = 3
)

var kindNames = []string{"function", "table", "memory", "global", "tag"}

// header is the magic number and version 1.
var header = []byte("\x00asm\x01\x00\x00\x00")

// i32 is the value type used in the Proxy-Wasm interface.
const i32 = "\x7f"

// funcType is the signature of a function: one byte, a value type, for each
// parameter and result.
type funcType struct{ params, results string }

func (t funcType) String() string {
	list := func(types string) string {
		var names []string
		for _, b := range []byte(types) {
			name, ok := map[byte]string{0x7f: "i32", 0x7e: "i64", 0x7d: "f32", 0x7c: "f64", 0x7b: "v128", 0x70: "funcref", 0x6f: "externref"}[b]
			if !ok {
				name = fmt.Sprintf("type %#x", b)
			}
			names = append(names, name)
		}
		return "(" + strings.Join(names, ", ") + ")"
	}
	return list(t.params) + " -> " + list(t.results)
}

type section struct {
	id   byte
	body []byte
}

type export struct {
	name  string
	kind  byte
	index uint32
}

// module is a Wasm binary, parsed as far as needed to add functions and globals, to
// change the exports, and to remove imports. Functions and globals are added at the
// end, so that existing indices do not change. Only replaceImports changes them.
type module struct {
	sections []section  // in the order of the file
	types    []funcType // invariant: equal to the type section
	// functions has the index in types of every function, imported functions
	// first. Invariant: each is a valid index of types.
	functions []uint32
	globals   uint32 // the number of globals, including imported ones
	// exports has every export. Invariant: the index of an exported function is a
	// valid index of functions. Only encode writes it into its section.
	exports []export
}

// parse parses a module. It reads only what is needed for rewriting, so it also
// accepts some invalid modules. The memory that it allocates is bounded by a small
// multiple of len(data).
func parse(data []byte) (*module, error) {
	if !bytes.HasPrefix(data, header) {
		return nil, errors.New("not a Wasm module of version 1")
	}
	m := &module{}
	r := &reader{rest: data[len(header):]}
	for last := -1; len(r.rest) > 0; {
		s := section{id: r.byte(), body: r.sized()}
		if r.err != nil {
			return nil, fmt.Errorf("reading the module: %w", r.err)
		}
		if s.id != sectionCustom {
			at := rank(s.id)
			if at <= last {
				return nil, fmt.Errorf("unknown or misplaced section with id %d", s.id)
			}
			last = at
		}
		m.sections = append(m.sections, s)
	}
	for _, read := range []struct {
		id   byte
		item func(*reader)
	}{
		{sectionType, m.readType}, {sectionImport, m.readImport}, {sectionFunction, m.readFunction}, {sectionExport, m.readExport},
	} {
		if err := m.readSection(read.id, read.item); err != nil {
			return nil, err
		}
	}
	counts := map[byte]uint32{}
	for _, id := range []byte{sectionFunction, sectionGlobal, sectionCode} {
		n, err := m.count(id)
		if err != nil {
			return nil, err
		}
		counts[id] = n
	}
	if declared, bodies := counts[sectionFunction], counts[sectionCode]; declared != bodies {
		return nil, fmt.Errorf("the module declares %d functions and has %d bodies", declared, bodies)
	}
	m.globals += counts[sectionGlobal]
	return m, nil
}

// readSection reads a section that is a list, item by item. A section that is
// missing is an empty list.
func (m *module) readSection(id byte, item func(*reader)) error {
	body := m.section(id)
	if body == nil {
		return nil
	}
	r := &reader{rest: *body}
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		item(r)
	}
	if r.err == nil && len(r.rest) > 0 {
		r.fail(errors.New("unexpected data after the last item"))
	}
	return within(id, r.err)
}

// within adds the name of the section to an error.
func within(id byte, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("reading the %s section: %w", sectionNames[rank(id)].name, err)
}

func (m *module) readType(r *reader) {
	if form := r.byte(); r.err == nil && form != 0x60 {
		r.fail(fmt.Errorf("unsupported form %#x of a type: not a function", form))
	}
	t := funcType{params: string(r.sized()), results: string(r.sized())}
	for _, b := range []byte(t.params + t.results) {
		oneByte(r, b)
	}
	m.types = append(m.types, t)
}

// oneByte rejects value types of more than one byte.
func oneByte(r *reader, valueType byte) {
	if valueType == 0x63 || valueType == 0x64 {
		r.fail(errors.New("references to types are not supported"))
	}
}

func (m *module) readImport(r *reader) {
	switch r.importItem().kind {
	case kindFunction:
		m.readFunction(r)
	case kindGlobal:
		m.globals++
	}
}

// importItem is an item of the import section.
type importItem struct {
	from, name string // the module that it is imported from, and its name there
	kind       byte
}

// importItem reads an item of the import section. The index of a function's type is
// still to be read.
func (r *reader) importItem() importItem {
	i := importItem{from: string(r.sized()), name: string(r.sized()), kind: r.byte()}
	switch i.kind {
	case kindFunction:
	case kindTable:
		r.table()
	case kindMemory:
		r.limits()
	case kindGlobal:
		r.globalType()
	case 4: // A tag with its attribute and type.
		r.byte()
		r.u32()
	default:
		r.fail(fmt.Errorf("unknown kind %d of an import", i.kind))
	}
	return i
}

// table reads the type of a table.
func (r *reader) table() {
	oneByte(r, r.byte())
	r.limits()
}

// limits reads the limits of a table or memory.
func (r *reader) limits() {
	withMaximum := r.byte()&1 != 0
	r.limit()
	if withMaximum {
		r.limit()
	}
}

// globalType reads the type and the mutability of a global.
func (r *reader) globalType() {
	oneByte(r, r.byte())
	r.byte()
}

func (m *module) readFunction(r *reader) {
	t := r.u32()
	if r.err == nil && uint64(t) >= uint64(len(m.types)) {
		r.fail(fmt.Errorf("a function has type %d, but there are %d types", t, len(m.types)))
	}
	m.functions = append(m.functions, t)
}

func (m *module) readExport(r *reader) {
	e := export{name: string(r.sized()), kind: r.byte(), index: r.u32()}
	switch {
	case r.err != nil:
	case int(e.kind) >= len(kindNames):
		r.fail(fmt.Errorf("export %q has unknown kind %d", e.name, e.kind))
	case e.kind == kindFunction && uint64(e.index) >= uint64(len(m.functions)):
		r.fail(fmt.Errorf("export %q is function %d, but there are %d functions", e.name, e.index, len(m.functions)))
	}
	m.exports = append(m.exports, e)
}

// section returns a pointer to the body of a section, or nil if the module does not
// have the section.
func (m *module) section(id byte) *[]byte {
	for i := range m.sections {
		if m.sections[i].id == id {
			return &m.sections[i].body
		}
	}
	return nil
}

// count returns the declared number of items in a section, which is at most its
// number of bytes.
func (m *module) count(id byte) (uint32, error) {
	body := m.section(id)
	if body == nil {
		return 0, nil
	}
	r := &reader{rest: *body}
	n := r.u32()
	if uint64(n) > uint64(len(r.rest)) {
		r.fail(errShort)
	}
	return n, within(id, r.err)
}
