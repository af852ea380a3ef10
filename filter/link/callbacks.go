package main

// The bodies of the functions that rewrite adds. Each comment has the equivalent in Go.

// refresh appends: state = hfi_state()
func (w *wrappers) refresh(c *code) {
	c.op(opCall, w.askState)
	c.op(opGlobalSet, w.state)
}

// arguments appends the function's first n parameters, as arguments of a call.
func (c *code) arguments(n int) {
	for i := range n {
		c.op(opLocalGet, uint32(i))
	}
}

// control wraps a callback that can change the filter's state.
//
//	result := original(parameters...)
//	state = hfi_state()
//	return result // if there is one
func (w *wrappers) control(original uint32) (c code) {
	c.arguments(len(w.m.types[w.m.functions[original]].params))
	c.op(opCall, original)
	w.refresh(&c) // The result stays on the stack.
	return c
}

// queueReady is control for notes of other VMs. Envoy may bring one for a plugin context
// of a VM that has failed to the VM in its place, where the ID may be a stream's. The SDK
// panics for a context that it did not create.
//
//	if !hfi_plugin(id) {
//		return
//	}
func (w *wrappers) queueReady(original uint32) (c code) {
	c.arguments(1)
	c.op(opCall, w.isPlugin)
	c.op(opI32Eqz)
	c.op(opIf)
	c.op(opReturn)
	c.op(opEnd)
	control := w.control(original)
	c.bytes = append(c.bytes, control.bytes...)
	return c
}

// vmStart is control for the first callback. It reads the bounds of the buffer too.
//
//	buffer, bufferEnd = hfi_buffer(), hfi_buffer_end()
func (w *wrappers) vmStart(original uint32) (c code) {
	c.op(opCall, w.askBuffer)
	c.op(opGlobalSet, w.buffer)
	c.op(opCall, w.askBufferEnd)
	c.op(opGlobalSet, w.bufferEnd)
	control := w.control(original)
	c.bytes = append(c.bytes, control.bytes...)
	return c
}

// allocationBits is the number of bits in the size of the largest data that the host may
// return: 8 MiB, twice the largest program, which is the largest data that the filter reads.
const allocationBits = 23

// allocate returns memory for data from the host. The SDK would allocate a Go
// object, which costs as much as the rest of reading a header.
//
// Others with the same vm_id can put values of any size into the shared data and the
// queues, and the host copies the whole value. If it gets no memory for that, its call
// fails, and nothing else does; Go would trap when the VM has no more.
//
//	if size>>allocationBits != 0 {
//		return nil
//	}
//	if size <= leftEnd-left {
//		left += size
//		return left - size
//	}
//	return original(size)
func (w *wrappers) allocate(original uint32) (c code) {
	c.op(opLocalGet, 0)
	c.op(opI32Const, allocationBits)
	c.op(opI32ShrU)
	c.op(opIf)
	c.op(opI32Const, 0)
	c.op(opReturn)
	c.op(opEnd)
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

// contextCreate calls the SDK for plugin contexts only. For each stream the SDK would
// allocate an object that is not used.
//
//	if parent == 0 { // a plugin context
//		remember(id)
//		original(id, parent)
//		return
//	}
//	if state&stateMixed != 0 {
//		hfi_on_create(id, parent)
//	}
func (w *wrappers) contextCreate(original uint32) (c code) {
	c.op(opLocalGet, 1)
	c.op(opI32Eqz)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.remember)
	c.arguments(2)
	c.op(opCall, original)
	c.op(opReturn)
	c.op(opEnd)
	w.stateHas(&c, stateMixed)
	c.op(opIf)
	c.arguments(2)
	c.op(opCall, w.begin)
	c.op(opEnd)
	return c
}

// requestHeaders calls the filter directly, because the SDK has no object for the
// stream. A paused stream changes the state; one that continues does not.
//
// Only during this call, the data from the host goes into the buffer. Envoy does not
// call it for a second request during the call for a first one. If it did, the second
// call would use the rest of the buffer and release it afterwards.
//
//	if state&stateRules == 0 {
//		return 0 // continue
//	}
//	before, beforeEnd := left, leftEnd
//	if leftEnd == 0 {
//		left, leftEnd = buffer, bufferEnd
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
	c.op(opGlobalGet, w.buffer)
	c.op(opGlobalSet, w.left)
	c.op(opGlobalGet, w.bufferEnd)
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

// onDelete calls the SDK at the end of a plugin context, and the filter at the end of
// a stream. The SDK panics for a context that it did not create. It calls both of the
// SDK's callbacks for plugin contexts, and ignores a request to delay the end.
//
//	if forget(id) { // a plugin context
//		proxy_on_done(id)
//		original(id)
//		state = hfi_state()
//		return
//	}
//	if more != 0 && hfi_plugin(id) { // one without a slot
//		more--
//		the same
//	}
//	if state&(statePaused|stateMixed) != 0 {
//		hfi_on_delete(id)
//		state = hfi_state()
//	}
func (w *wrappers) onDelete(original uint32) (c code) {
	c.arguments(1)
	c.op(opCall, w.forget)
	c.op(opIf)
	w.pluginEnds(&c, original)
	c.op(opEnd)
	c.op(opGlobalGet, w.more)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.isPlugin)
	c.op(opIf)
	c.op(opGlobalGet, w.more)
	c.op(opI32Const, 1)
	c.op(opI32Sub)
	c.op(opGlobalSet, w.more)
	w.pluginEnds(&c, original)
	c.op(opEnd)
	c.op(opEnd)
	w.stateHas(&c, statePaused|stateMixed)
	c.op(opIf)
	c.arguments(1)
	c.op(opCall, w.tell)
	w.refresh(&c)
	c.op(opEnd)
	return c
}

// pluginEnds appends the end of a plugin context, and a return.
func (w *wrappers) pluginEnds(c *code, original uint32) {
	c.arguments(1)
	c.op(opCall, w.sdkOnDone)
	c.op(opDrop)
	c.arguments(1)
	c.op(opCall, original)
	w.refresh(c)
	c.op(opReturn)
}

// stateHas appends: state & bits
func (w *wrappers) stateHas(c *code, bits uint32) {
	c.op(opGlobalGet, w.state)
	c.op(opI32Const, bits)
	c.op(opI32And)
}

// rememberPlugin is a function that stores the ID of a plugin context. Envoy may
// create one twice, so an ID that is already stored is not stored again.
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
//	more++
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
	c.op(opGlobalGet, w.more)
	c.op(opI32Const, 1)
	c.op(opI32Add)
	c.op(opGlobalSet, w.more)
	return c
}

// forgetPlugin is a function that returns 1 if an ID is that of a plugin context, else
// 0. It frees the slot, because Envoy's IDs wrap around and a stream may get the same
// ID.
//
//	if id == 0 {
//		return 0 // not the value of a free slot
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
