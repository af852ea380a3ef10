package main

// What command link builds its short cuts on is exported to it by
// exports_wasm.go, and by nothing else: only a module has exports.

// The bits of state.
const (
	// stateActive: some policy could act, so requests must be shown to the filter.
	stateActive = 1
	// statePaused: streams wait for their delay, so the ends of streams must be told.
	statePaused = 2
)

// state says what the filter has to be told of at present.
func (v *vm) state() int32 {
	var state int32
	if !v.program.Idle() {
		state |= stateActive
	}
	if len(v.paused.streams) > 0 {
		state |= statePaused
	}
	return state
}
