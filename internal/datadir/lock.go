package datadir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long Lock waits for another process to release the lock. A
// child process that the former daemon was starting when it was killed
// inherits the lock until its own program runs, and a supervisor may start
// the next daemon before that.
const lockWait = time.Second

// lockPoll is the time between two attempts to take the lock.
const lockPoll = 10 * time.Millisecond

// Lock is a data folder held by this process.
type Lock struct{ file *os.File }

// Lock creates the folder if it is missing, and locks it until Close or the
// end of the process. It returns an error within lockWait, or when ctx ends,
// if another process holds the lock. A daemon must take the lock before it
// reads or writes anything else in the folder.
func (f Folder) Lock(ctx context.Context) (*Lock, error) {
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder: %w", err)
	}
	file, err := os.OpenFile(f.lock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the data folder's lock: %w", err)
	}
	if err := lock(ctx, file); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data folder %s is in use by another hfid%s: stop that process, or choose another folder with --data-dir", f, holder(file))
		}
		return nil, fmt.Errorf("locking %s: %w", f.lock(), err)
	}
	// The process ID is for people: the kernel holds the lock, and releases it when the process ends.
	if err := errors.Join(file.Truncate(0), writeAt(file, fmt.Sprintf("%d\n", os.Getpid()))); err != nil {
		file.Close()
		return nil, fmt.Errorf("writing %s: %w", f.lock(), err)
	}
	return &Lock{file: file}, nil
}

// lock takes an exclusive lock on a file, and returns unix.EWOULDBLOCK if
// another process still holds it after lockWait.
func lock(ctx context.Context, file *os.File) error {
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for begun := time.Now(); ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Since(begun) >= lockWait {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
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

// Close releases the folder.
func (l *Lock) Close() error { return l.file.Close() }
