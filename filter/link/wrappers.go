package main

import "errors"

// maxPlugins is the maximum number of plugin contexts in a VM that the wrappers
// themselves distinguish from streams. A VM has one for each configuration of the
// filter in use, and for a while those of former configurations. While there are more,
// the wrappers ask the filter at the end of each stream.
const maxPlugins = 16

// The instructions used in the wrappers (Wasm specification, 5.4).
const (
	opIf        = 0x04 // always without a result
	opEnd       = 0x0b
	opReturn    = 0x0f
	opCall      = 0x10
	opDrop      = 0x1a
	opLocalGet  = 0x20
	opLocalSet  = 0x21
	opGlobalGet = 0x23
	opGlobalSet = 0x24
	opI32Store  = 0x36
	opI32Const  = 0x41 // 0 to 63, which are encoded alike with and without sign
	opI32Eqz    = 0x45
	opI32Eq     = 0x46
	opI32LeU    = 0x4d
	opI32Add    = 0x6a
	opI32Sub    = 0x6b
	opI32And    = 0x71
	opI32ShrU   = 0x76

	blockEmpty = 0x40
)

// code is the body of a function, without the final end. All parameters and locals
// are of type i32.
type code struct {
	locals int // the number of locals, without parameters
	bytes  []byte
}

// op appends an instruction with its operand, if it has one.
func (c *code) op(opcode byte, operand ...uint32) {
	c.bytes = append(c.bytes, opcode)
	if opcode == opIf {
		c.bytes = append(c.bytes, blockEmpty)
	}
	for _, o := range operand {
		c.bytes = appendU32(c.bytes, o)
	}
}

// wrappers generates the functions between Envoy and the SDK.
type wrappers struct {
	m     *module
	state uint32             // the global with the last result of exportState
	slots [maxPlugins]uint32 // the globals with the IDs of live plugin contexts; 0, which is not a context ID, if free

	// The globals with the results of exportBuffer and exportBufferEnd, and with the
	// bounds of the free part of the buffer. Invariant: left and leftEnd are equal
	// except while the filter decides on a request, so nothing else is allocated
	// from the buffer.
	buffer, bufferEnd, left, leftEnd uint32

	more uint32 // the global with the number of live plugin contexts without a slot

	remember, forget                         uint32 // see rememberPlugin, forgetPlugin
	askState, decide, begin, tell, sdkOnDone uint32 // functions of the module
	askBuffer, askBufferEnd, isPlugin        uint32 // likewise
}

// rewrite rewrites a module that was built with the SDK, as described in the package
// comment. Its output depends only on its input.
func rewrite(original []byte) ([]byte, error) {
	m, err := parse(original)
	if err != nil {
		return nil, err
	}
	if err := m.replaceImports(); err != nil {
		return nil, err
	}
	found := map[string]export{}
	for _, want := range interfaceExports {
		e, ok, err := m.find(want)
		if err != nil {
			return nil, err
		}
		if ok {
			found[want.name] = e
		}
	}

	_, ok0 := found["proxy_abi_version_0_2_0"]
	_, ok1 := found["proxy_abi_version_0_2_1"]
	if !ok0 && !ok1 {
		return nil, errors.New("the module has no export proxy_abi_version_0_2_0 or proxy_abi_version_0_2_1")
	}

	w := &wrappers{
		m:         m,
		state:     m.addGlobal(),
		askState:  found[exportState].index,
		decide:    found[exportRequestHeaders].index,
		begin:     found[exportCreate].index,
		tell:      found[exportDelete].index,
		sdkOnDone: found["proxy_on_done"].index,

		buffer: m.addGlobal(), bufferEnd: m.addGlobal(), left: m.addGlobal(), leftEnd: m.addGlobal(),
		more: m.addGlobal(), isPlugin: found[exportPlugin].index,

		askBuffer: found[exportBuffer].index, askBufferEnd: found[exportBufferEnd].index,
	}
	for i := range w.slots {
		w.slots[i] = m.addGlobal()
	}
	w.remember = m.addFunction(*signature(1, 0), w.rememberPlugin())
	w.forget = m.addFunction(*signature(1, 1), w.forgetPlugin())

	m.exports = nil
	for _, want := range interfaceExports {
		e, ok := found[want.name]
		if !ok || want.hide {
			continue
		}
		if want.wrap != nil {
			e.index = m.addFunction(*want.signature, want.wrap(w, e.index))
		}
		m.exports = append(m.exports, e)
	}
	return m.encode(), nil
}
