package main

// place is a place at which a filter built with the tag hfi_trap can panic on purpose.
type place string

const (
	onRequest  place = "request"
	onDelayEnd place = "delay"
	onAnswer   place = "answer"
	// onLead is the tick of the VM that asks the daemon for all.
	onLead place = "lead"
)
