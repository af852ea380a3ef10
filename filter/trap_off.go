//go:build !hfi_trap

package main

// trap does nothing without the build tag hfi_trap.
func (v *vm) trap(place) {}
