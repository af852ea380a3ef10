package datadir

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// errHeld means that another process holds a lock.
var errHeld = errors.New("another process holds the lock")

// lockWait is how long Lock waits for another process to release the lock. A
// child process that the former daemon was starting when it was killed
// inherits the lock until its own program runs, and a supervisor may start
// the next daemon before that.
const lockWait = time.Second

// lockPoll is the time between two attempts to take the lock.
const lockPoll = 10 * time.Millisecond

// keepInterval is the time between two checks of Keep.
const keepInterval = time.Second

// Lock is a data folder held by this process.
type Lock struct {
	path Folder
	// folder is the open folder. It is locked, too, where its file system can
	// lock folders: on a full or read-only disk there may be no lock file.
	folder *os.File
	// file is the open lock file, or nil if there is none and none can be created.
	file *os.File
}

// Lock creates the folder if it is missing, and locks it until Close or the
// end of the process. It returns an error within lockWait, or when ctx ends,
// if another process holds the lock. A folder that cannot be written is locked
// as well, if it exists. A daemon must take the lock before it reads or writes
// anything else in the folder.
func (f Folder) Lock(ctx context.Context) (*Lock, error) {
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder: %w", err)
	}
	folder, err := os.Open(string(f))
	if err != nil {
		return nil, fmt.Errorf("opening the data folder: %w", err)
	}
	l := &Lock{path: f, folder: folder}
	locked := lock(ctx, folder)
	switch {
	case errors.Is(locked, errHeld):
		err = f.inUse()
	case ctx.Err() != nil:
		err = fmt.Errorf("locking %s: %w", f, locked)
	default:
		err = l.lockFile(ctx)
	}
	// Without a lock file the folder's own lock has to do.
	if err != nil && (locked != nil || !Unwritable(err)) {
		folder.Close()
		return nil, err
	}
	return l, nil
}

// lockFile opens and locks the lock file, and creates it if it is missing.
func (l *Lock) lockFile(ctx context.Context) error {
	path := l.path.lock()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if Unwritable(err) {
		if readable, failed := os.Open(path); failed == nil {
			file, err = readable, nil
		}
	}
	if err != nil {
		return fmt.Errorf("opening the data folder's lock: %w", err)
	}
	if err := lock(ctx, file); err != nil {
		file.Close()
		if errors.Is(err, errHeld) {
			return l.path.inUse()
		}
		return fmt.Errorf("locking %s: %w", path, err)
	}
	// The process ID is for people: the kernel holds the lock, and releases it when the process ends.
	if file.Truncate(0) == nil {
		_, _ = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	if l.file != nil {
		l.file.Close()
	}
	l.file = file
	return nil
}

// inUseError means that another process holds the lock of a folder. The holder
// is empty if it is not known.
type inUseError struct {
	folder Folder
	holder string
}

func (e *inUseError) Error() string {
	return fmt.Sprintf("the data folder %s is in use by another hfid%s: stop that process, or choose another folder with --data-dir", e.folder, e.holder)
}

func (f Folder) inUse() error { return &inUseError{f, f.holder()} }

// Keep locks the folder again when it or its lock file was removed, or
// when a lock file can be created at last, until ctx ends. It returns an error
// at once if another process has the folder by then: the caller must not use it
// any more.
func (l *Lock) Keep(ctx context.Context, logger *slog.Logger) error {
	ticker := time.NewTicker(keepInterval)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		err := l.renew(ctx, logger)
		switch used := (*inUseError)(nil); {
		case err == nil:
			said = ""
		case errors.As(err, &used):
			return used
		case err.Error() != said && ctx.Err() == nil:
			said = err.Error()
			logger.Error("the data folder is not locked: another hfid may use it too", "error", err)
		}
	}
}

func (l *Lock) renew(ctx context.Context, logger *slog.Logger) error {
	if !same(string(l.path), l.folder) {
		logger.Error("the data folder was removed; it is created again", "folder", l.path)
		next, err := l.path.Lock(ctx)
		if err != nil {
			return err
		}
		err = l.Close()
		*l = *next
		return err
	}
	if l.file == nil || !same(l.path.lock(), l.file) {
		if err := l.lockFile(ctx); err != nil && (l.file != nil || !Unwritable(err)) {
			return err
		}
	}
	return nil
}

// same reports whether a path is that of an open file.
func same(path string, file *os.File) bool {
	found, err := os.Stat(path)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) // A file that cannot be examined may still exist.
	}
	held, err := file.Stat()
	return err == nil && os.SameFile(found, held)
}

// lock takes an exclusive lock on a file, and returns errHeld if another process
// still holds it after lockWait.
func lock(ctx context.Context, file *os.File) error {
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for begun := time.Now(); ; {
		err := tryLock(file)
		if !errors.Is(err, errHeld) || time.Since(begun) >= lockWait {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}

// holder names the process that holds the lock, if it is known.
func (f Folder) holder() string {
	file, err := os.Open(f.lock())
	if err != nil {
		return ""
	}
	defer file.Close()
	text := make([]byte, 20)
	n, _ := file.ReadAt(text, 0)
	// A holder that could not write its own has left that of a process before it.
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil || pid <= 0 || !running(pid) {
		return ""
	}
	return fmt.Sprintf(" (process %d)", pid)
}

// Close releases the folder.
func (l *Lock) Close() error {
	err := l.folder.Close()
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	return err
}
