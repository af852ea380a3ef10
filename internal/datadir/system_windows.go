package datadir

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// unwritable are the errors of a disk that is full or failing, and of files and
// folders that may not be written.
var unwritable = []error{
	windows.ERROR_DISK_FULL, windows.ERROR_HANDLE_DISK_FULL, windows.ERROR_DISK_QUOTA_EXCEEDED, windows.ERROR_FILE_TOO_LARGE,
	windows.ERROR_WRITE_PROTECT, windows.ERROR_ACCESS_DENIED, windows.ERROR_IO_DEVICE,
}

// lockedByte is the offset of the byte that is locked. Windows lets no other process
// read what is locked, so it is far behind the process ID, which others show.
const lockedByte = 1 << 30

// tryLock takes an exclusive lock on a file, or returns errHeld at once. It returns
// another error for a folder, which Windows cannot lock.
func tryLock(file *os.File) error {
	err := windows.LockFileEx(windows.Handle(file.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{Offset: lockedByte})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errHeld
	}
	return err
}

// running reports whether there may be a process with an ID.
func running(pid int) bool {
	process, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid))
	if err != nil {
		return !errors.Is(err, windows.ERROR_INVALID_PARAMETER)
	}
	_ = windows.CloseHandle(process)
	return true
}

// hasRoom reports whether a folder is on a disk with so many free bytes.
func hasRoom(folder string, size uint64) bool {
	name, err := windows.UTF16PtrFromString(folder)
	if err != nil {
		return false
	}
	var free uint64
	return windows.GetDiskFreeSpaceEx(name, &free, nil, nil) == nil && free >= size
}
