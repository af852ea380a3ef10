//go:build !linux

package cue

// limitMemory does nothing on this system: only watchMemory applies.
func limitMemory(int64) {}
