//go:build unix

package datadir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// unwritable are the errors of a disk that is full or failing, and of files and
// folders that may not be written.
var unwritable = []error{unix.ENOSPC, unix.EDQUOT, unix.EFBIG, unix.EROFS, unix.EACCES, unix.EPERM, unix.EIO}

// tryLock takes an exclusive lock on a file or folder, or returns errHeld at once.
func tryLock(file *os.File) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errHeld
	}
	return err
}

// running reports whether there may be a process with an ID.
func running(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

// hasRoom reports whether a folder seems writable, on a disk with so many free bytes.
func hasRoom(folder string, size uint64) bool {
	var disk unix.Statfs_t
	return unix.Access(folder, unix.W_OK) == nil && unix.Statfs(folder, &disk) == nil && disk.Bavail*uint64(disk.Bsize) >= size
}
