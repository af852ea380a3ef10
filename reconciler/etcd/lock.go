package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// FolderLock is a data folder held by this process.
type FolderLock struct{ file *os.File }

// lockPatience is how long the data folder may still be held. A daemon that
// was killed in the middle of starting a child leaves its open files to that
// child for as long as it takes to begin its own program, and a supervisor may
// start the next daemon before that.
const lockPatience = time.Second

// LockFolder makes the data folder, if need be, and holds it until Close or
// the end of the process. Where another process holds it, that is told within
// lockPatience. A daemon takes it before it touches anything else in the folder.
func LockFolder(folder string) (*FolderLock, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	path := filepath.Join(folder, "lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data folder's lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for begun := time.Now(); errors.Is(err, unix.EWOULDBLOCK) && time.Since(begun) < lockPatience; {
		time.Sleep(10 * time.Millisecond)
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data folder %s is in use by another hfid%s: stop that one, or give this one a folder of its own with --data-dir", folder, holder(file))
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// The number is for people only: the lock is the kernel's, and ends with the process.
	if err := errors.Join(file.Truncate(0), writeAt(file, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		file.Close()
		return nil, fmt.Errorf("writing %s: %w", path, err)
	}
	return &FolderLock{file: file}, nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

func holder(file *os.File) string {
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	if pid := strings.TrimSpace(string(text[:n])); pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

// Close lets go of the folder.
func (l *FolderLock) Close() error { return l.file.Close() }
