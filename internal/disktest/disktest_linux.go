// Package disktest makes small real disks for tests, and fills them.
package disktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boifi/hfi/internal/testtool"
)

// Disk is a mounted file system in memory.
type Disk struct {
	// Path is the folder that it is mounted on.
	Path string
	t    testing.TB
	// readOnly says that a second, read-only mount covers the first.
	readOnly bool
}

// New mounts a disk of so many MiB until the test ends. Without the right to
// mount, the test fails in CI and is skipped elsewhere.
func New(t testing.TB, mebibytes int) *Disk {
	t.Helper()
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, fmt.Sprintf("size=%dm,mode=0700", mebibytes)); err != nil {
		testtool.Lacks(t, "mounting a small disk needs root and the right to mount: %v", err)
	}
	disk := &Disk{Path: path, t: t}
	t.Cleanup(func() {
		if disk.readOnly {
			disk.Writable()
		}
		// Detached, so that a process that is about to end does not keep it mounted.
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", path, err)
		}
	})
	return disk
}

func (d *Disk) ballast() string { return filepath.Join(d.Path, "ballast") }

// Fill leaves no room on the disk.
func (d *Disk) Fill() {
	d.t.Helper()
	file, err := os.OpenFile(d.ballast(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := file.Write(block); errors.Is(err, unix.ENOSPC) {
			block = block[:len(block)/2]
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
}

// Free removes what Fill wrote.
func (d *Disk) Free() {
	d.t.Helper()
	if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

// ReadOnly makes the disk read-only for all files that are opened from now on.
// (No file system can be made so while a file is open for writing.)
func (d *Disk) ReadOnly() {
	d.t.Helper()
	err := unix.Mount(d.Path, d.Path, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", d.Path, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	}
	if err != nil {
		d.t.Fatalf("making %s read-only: %v", d.Path, err)
	}
	d.readOnly = true
}

// Writable undoes ReadOnly.
func (d *Disk) Writable() {
	d.t.Helper()
	if err := unix.Unmount(d.Path, unix.MNT_DETACH); err != nil {
		d.t.Fatalf("making %s writable: %v", d.Path, err)
	}
	d.readOnly = false
}
