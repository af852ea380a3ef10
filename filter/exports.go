package main

// The functions for command link are exported by exports_wasm.go, because only a
// Wasm module has exports.

// The bits of state.
const (
	// stateActive: some policy may apply, so the filter needs the requests.
	stateActive = 1
	// statePaused: streams are paused, so the filter needs the ends of streams.
	statePaused = 2
	// stateMixed: the streams that some policy may apply to differ in their plugin
	// contexts, so the filter needs the starts and the ends of streams.
	stateMixed = 4
)

// state returns which callbacks the filter needs at present.
func (v *vm) state() int32 {
	var state int32
	if v.active() {
		state |= stateActive
	}
	if v.records || len(v.owners) > 0 {
		state |= stateMixed
	}
	if len(v.paused.streams) > 0 {
		state |= statePaused
	}
	return state
}
