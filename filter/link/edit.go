package main

import "slices"

// encode writes the module.
func (m *module) encode() []byte {
	exports := appendU32(nil, uint32(len(m.exports)))
	for _, e := range m.exports {
		exports = appendSized(exports, []byte(e.name))
		exports = append(exports, e.kind)
		exports = appendU32(exports, e.index)
	}
	*m.need(sectionExport) = exports

	out := slices.Clone(header)
	for _, s := range m.sections {
		out = append(out, s.id)
		out = appendSized(out, s.body)
	}
	return out
}

// addGlobal adds a mutable i32 with the value 0, and returns its index.
func (m *module) addGlobal() uint32 {
	const mutable = 1
	m.push(sectionGlobal, []byte{i32[0], mutable, opI32Const, 0, opEnd})
	m.globals++
	return m.globals - 1
}

// addFunction adds a function and returns its index.
func (m *module) addFunction(t funcType, body code) uint32 {
	m.push(sectionFunction, appendU32(nil, m.typeIndex(t)))
	m.functions = append(m.functions, m.typeIndex(t))

	var encoded []byte
	if body.locals == 0 {
		encoded = appendU32(encoded, 0)
	} else { // One group, all of one type.
		encoded = append(appendU32(appendU32(encoded, 1), uint32(body.locals)), i32...)
	}
	encoded = append(append(encoded, body.bytes...), opEnd)
	m.push(sectionCode, appendSized(nil, encoded))
	return uint32(len(m.functions) - 1)
}

// typeIndex returns the index of a signature in types. It adds a missing one.
func (m *module) typeIndex(t funcType) uint32 {
	for i, have := range m.types {
		if have == t {
			return uint32(i)
		}
	}
	encoded := []byte{0x60}
	encoded = appendSized(encoded, []byte(t.params))
	encoded = appendSized(encoded, []byte(t.results))
	m.push(sectionType, encoded)
	m.types = append(m.types, t)
	return uint32(len(m.types) - 1)
}

// need returns the body of a section. It adds a missing one as an empty list.
func (m *module) need(id byte) *[]byte {
	if body := m.section(id); body != nil {
		return body
	}
	at := slices.IndexFunc(m.sections, func(s section) bool { return s.id != sectionCustom && rank(s.id) > rank(id) })
	if at < 0 {
		at = len(m.sections)
	}
	m.sections = slices.Insert(m.sections, at, section{id: id, body: appendU32(nil, 0)})
	return m.section(id)
}

// push appends an encoded item to the list of a section.
func (m *module) push(id byte, item []byte) {
	body := m.need(id)
	r := &reader{rest: *body}
	longer := appendU32(nil, r.u32()+1)
	longer = append(longer, r.rest...)
	*body = append(longer, item...)
}
