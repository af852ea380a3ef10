package main

import "errors"

// maxPlugins is how many plugin contexts of one VM the wrappers can tell from
// streams at a time. A VM has one for each configuration of the filter that is
// in use, and for a while also the one before. A plugin context beyond these
// works, but its end is taken for a stream's: the SDK and the filter do not
// hear of it, and keep it until the VM ends.
const maxPlugins = 16

// The instructions that the wrappers are made of (Wasm specification, 5.4).
const (
	opIf        = 0x04 // without a result, always
	opEnd       = 0x0b
	opReturn    = 0x0f
	opCall      = 0x10
	opDrop      = 0x1a
	opLocalGet  = 0x20
	opLocalSet  = 0x21
	opGlobalGet = 0x23
	opGlobalSet = 0x24
	opI32Const  = 0x41 // of 0 to 63, which are the same with and without sign
	opI32Eqz    = 0x45
	opI32Eq     = 0x46
	opI32LeU    = 0x4d
	opI32Add    = 0x6a
	opI32Sub    = 0x6b
	opI32And    = 0x71

	blockEmpty = 0x40
)

// code is a function's body, without the end that closes it. All its
// parameters and locals are of type i32.
type code struct {
	locals int // how many, the parameters not counted
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

// wrappers makes the functions that stand between Envoy and the SDK.
type wrappers struct {
	m     *module
	state uint32             // the global that has the filter's last answer to exportState
	slots [maxPlugins]uint32 // the globals that have the ids of live plugin contexts; 0, which is no context's, if free

	// The globals that have what exportRoom and exportRoomEnd answered, and
	// what is left of it. Invariant: left and leftEnd are equal but while the
	// filter decides on a request; then nothing can be taken from it.
	room, roomEnd, left, leftEnd uint32

	remember, forget                  uint32 // see rememberPlugin, forgetPlugin
	askState, decide, tell, sdkOnDone uint32 // functions of the module
	askRoom, askRoomEnd               uint32 // likewise
}

// rewrite makes the module described at the top of this command from one that
// was built with the SDK. The same bytes always give the same bytes.
func rewrite(original []byte) ([]byte, error) {
	m, err := parse(original)
	if err != nil {
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
		tell:      found[exportDelete].index,
		sdkOnDone: found["proxy_on_done"].index,

		room: m.addGlobal(), roomEnd: m.addGlobal(), left: m.addGlobal(), leftEnd: m.addGlobal(),
		askRoom: found[exportRoom].index, askRoomEnd: found[exportRoomEnd].index,
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
