package main

// The bodies of the functions that rewrite adds. Each comment has the function
// as one would write it in Go.

// refresh appends: state = hfi_state()
func (w *wrappers) refresh(c *code) {
	c.op(opCall, w.askState)
	c.op(opGlobalSet, w.state)
}

// arguments appends the function's first n parameters, to call another with.
func (c *code) arguments(n int) {
	for i := range n {
		c.op(opLocalGet, uint32(i))
	}
}

// control is in front of what can change the filter's mind.
//
//	result := original(parameters...)
//	state = hfi_state()
//	return result // if there is one
func (w *wrappers) control(original uint32) (c code) {
	c.arguments(len(w.m.types[w.m.functions[original]].params))
	c.op(opCall, original)
	w.refresh(&c) // The result stays on the stack, under what this does.
	return c
}

// vmStart is control for what comes first of all: it asks for the room too.
//
//	room, roomEnd = hfi_room(), hfi_room_end()
func (w *wrappers) vmStart(original uint32) (c code) {
	c.op(opCall, w.askRoom)
	c.op(opGlobalSet, w.room)
	c.op(opCall, w.askRoomEnd)
	c.op(opGlobalSet, w.roomEnd)
	control := w.control(original)
	c.bytes = append(c.bytes, control.bytes...)
	return c
}

// allocate gives the host a place for what it hands over. The SDK would make
// a Go object of it, which costs as much as all the rest of reading a header.
//
//	if size <= leftEnd-left {
//		left += size
//		return left - size
//	}
//	return original(size)
func (w *wrappers) allocate(original uint32) (c code) {
	c.op(opLocalGet, 0)
	c.op(opGlobalGet, w.leftEnd)
	c.op(opGlobalGet, w.left)
	c.op(opI32Sub)
	c.op(opI32LeU)
	c.op(opIf)
	c.op(opGlobalGet, w.left)
	c.op(opLocalGet, 0)
	c.op(opI32Add)
	c.op(opGlobalSet, w.left)
	c.op(opGlobalGet, w.left)
	c.op(opLocalGet, 0)
	c.op(opI32Sub)
	c.op(opReturn)
	c.op(opEnd)
	c.arguments(1)
	c.op(opCall, original)
	return c
}

// contextCreate keeps streams from the SDK, which would make an object for
// each that nobody uses.
//
//	if parent == 0 { // a plugin context
//		remember(id)
//		original(id, parent)
//	}
func (w *wrappers) contextCreate(original uint32) (c code) {
	c.op(opLocalGet, 1)
	c.op(opI32Eqz)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.remember)
	c.arguments(2)
	c.op(opCall, original)
	c.op(opEnd)
	return c
}

// requestHeaders goes to the filter and past the SDK, which does not know the
// stream. A paused stream changes the state; one that continues does not.
//
// Meanwhile, and at no other time, what the host hands over goes into the
// room. Envoy does not ask about a request while it is being told about
// another one; if it did, the second would use what the first has left, and
// give it back.
//
//	if state&stateRules == 0 {
//		return 0 // continue
//	}
//	before, beforeEnd := left, leftEnd
//	if leftEnd == 0 {
//		left, leftEnd = room, roomEnd
//	}
//	action := hfi_on_request_headers(id, headers, end)
//	left, leftEnd = before, beforeEnd
//	if action != 0 {
//		state = hfi_state()
//	}
//	return action
func (w *wrappers) requestHeaders(uint32) (c code) {
	const action, before, beforeEnd = 3, 4, 5
	c.locals = 3
	w.stateHas(&c, stateRules)
	c.op(opI32Eqz)
	c.op(opIf)
	c.op(opI32Const, 0)
	c.op(opReturn)
	c.op(opEnd)
	c.copyGlobal(w.left, before)
	c.copyGlobal(w.leftEnd, beforeEnd)
	c.op(opLocalGet, beforeEnd)
	c.op(opI32Eqz)
	c.op(opIf)
	c.op(opGlobalGet, w.room)
	c.op(opGlobalSet, w.left)
	c.op(opGlobalGet, w.roomEnd)
	c.op(opGlobalSet, w.leftEnd)
	c.op(opEnd)
	c.arguments(3)
	c.op(opCall, w.decide)
	c.op(opLocalSet, action)
	c.op(opLocalGet, before)
	c.op(opGlobalSet, w.left)
	c.op(opLocalGet, beforeEnd)
	c.op(opGlobalSet, w.leftEnd)
	c.op(opLocalGet, action)
	c.op(opIf)
	w.refresh(&c)
	c.op(opEnd)
	c.op(opLocalGet, action)
	return c
}

// copyGlobal appends: local = global
func (c *code) copyGlobal(global, local uint32) {
	c.op(opGlobalGet, global)
	c.op(opLocalSet, local)
}

// onDelete tells the SDK of the end of a plugin context, and the filter of the
// end of a stream. The SDK panics if it is told of what it did not see begin.
// It hears both things that it would have heard; that a plugin asks for its
// end to be put off is ignored.
//
//	if forget(id) { // a plugin context
//		proxy_on_done(id)
//		original(id)
//		state = hfi_state()
//		return
//	}
//	if state&statePaused != 0 {
//		hfi_on_delete(id)
//		state = hfi_state()
//	}
func (w *wrappers) onDelete(original uint32) (c code) {
	c.arguments(1)
	c.op(opCall, w.forget)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.sdkOnDone)
	c.op(opDrop)
	c.arguments(1)
	c.op(opCall, original)
	w.refresh(&c)
	c.op(opReturn)
	c.op(opEnd)
	w.stateHas(&c, statePaused)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.tell)
	w.refresh(&c)
	c.op(opEnd)
	return c
}

// stateHas appends: state & bit
func (w *wrappers) stateHas(c *code, bit uint32) {
	c.op(opGlobalGet, w.state)
	c.op(opI32Const, bit)
	c.op(opI32And)
}

// rememberPlugin is a function that takes the id of a plugin context. Envoy
// can create one twice, so an id that is there already is not put down again.
//
//	for _, slot := range slots {
//		if slot == id {
//			return
//		}
//	}
//	for i := range slots {
//		if slots[i] == 0 {
//			slots[i] = id
//			return
//		}
//	}
func (w *wrappers) rememberPlugin() (c code) {
	for _, slot := range w.slots {
		c.op(opGlobalGet, slot)
		c.op(opLocalGet, 0)
		c.op(opI32Eq)
		c.op(opIf)
		c.op(opReturn)
		c.op(opEnd)
	}
	for _, slot := range w.slots {
		c.op(opGlobalGet, slot)
		c.op(opI32Eqz)
		c.op(opIf)
		c.op(opLocalGet, 0)
		c.op(opGlobalSet, slot)
		c.op(opReturn)
		c.op(opEnd)
	}
	return c
}

// forgetPlugin is a function that takes an id and returns 1 if it was a plugin
// context's, else 0. It frees the slot, since Envoy counts ids round and can
// give the same one to a stream.
//
//	if id == 0 {
//		return 0 // not a free slot's content
//	}
//	for i := range slots {
//		if slots[i] == id {
//			slots[i] = 0
//			return 1
//		}
//	}
//	return 0
func (w *wrappers) forgetPlugin() (c code) {
	c.op(opLocalGet, 0)
	c.op(opI32Eqz)
	c.op(opIf)
	c.op(opI32Const, 0)
	c.op(opReturn)
	c.op(opEnd)
	for _, slot := range w.slots {
		c.op(opGlobalGet, slot)
		c.op(opLocalGet, 0)
		c.op(opI32Eq)
		c.op(opIf)
		c.op(opI32Const, 0)
		c.op(opGlobalSet, slot)
		c.op(opI32Const, 1)
		c.op(opReturn)
		c.op(opEnd)
	}
	c.op(opI32Const, 0)
	return c
}
