package main

// place is where a filter that is built with the tag hfi_trap can be broken on purpose.
type place string

const (
	onRequest  place = "request"
	onDelayEnd place = "delay"
	onAnswer   place = "answer"
)
