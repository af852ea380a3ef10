//go:build !linux

// Package disktest makes small real disks for tests, on Linux only.
package disktest

import "testing"

// Disk is a mounted file system in memory.
type Disk struct{ Path string }

// New skips the test.
func New(t testing.TB, _ int) *Disk {
	t.Helper()
	t.Skip("small disks are mounted on Linux only")
	return nil
}

// Fill leaves no room on the disk.
func (*Disk) Fill() {}

// Free removes what Fill wrote.
func (*Disk) Free() {}

// ReadOnly makes the disk read-only.
func (*Disk) ReadOnly() {}

// Writable undoes ReadOnly.
func (*Disk) Writable() {}
