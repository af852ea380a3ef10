package datadir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
)

// temporarySuffix ends the name of the file that WriteFile writes before it
// replaces the real one. The name is fixed, because the folder is locked by
// one process: a crash leaves at most one such file, which the next write overwrites.
const temporarySuffix = ".tmp"

// WriteFile replaces the content of a file in a locked data folder. A reader,
// and a process started after a crash at any moment, sees all of the old
// content or all of the new. When WriteFile returns nil, the new content
// survives a power failure. After an error either content may be in place.
// The caller must not write one file from two goroutines at once.
//
// It is our own because renameio and natefinch/atomic do not sync the folder:
// with them a power failure after the call may bring back the old content.
func WriteFile(path string, content []byte) error {
	temporary := path + temporarySuffix
	if err := writeSynced(temporary, content); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(temporary))
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return SyncFolder(filepath.Dir(path))
}

func writeSynced(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// trying is locked while Writable uses its file.
var trying sync.Mutex

// Writable returns what prevents that files are written in the folder, such as
// a full disk or a file system that is read-only, or nil. It writes a small file
// and removes it.
func (f Folder) Writable() error {
	const size = 64 << 10
	path := f.entry("writable" + temporarySuffix)
	trying.Lock()
	defer trying.Unlock()
	err := writeSynced(path, make([]byte, size))
	if removed := os.Remove(path); err == nil {
		err = removed
	}
	if err == nil {
		return nil
	}
	var known *fs.PathError
	if errors.As(err, &known) && known.Path == path {
		err = known.Err
	}
	return fmt.Errorf("the data folder %s cannot be written: %w", f, err)
}

// Check is Writable, but writes only if something suggests that it would fail.
func (f Folder) Check() error {
	const enough = 1 << 20
	if hasRoom(string(f), enough) {
		return nil
	}
	return f.Writable()
}

// Unwritable reports whether an error says that a disk is full or failing, or that a
// file or folder on it cannot be written.
func Unwritable(err error) bool {
	return slices.ContainsFunc(unwritable, func(known error) bool { return errors.Is(err, known) })
}

// Make creates a folder in a data folder, unless it exists. It never creates the
// data folder itself: if somebody has removed that, Keep has to lock it first.
func Make(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// SyncFolder makes a folder's entries survive a power failure: files created,
// renamed or removed in it, but not their content.
func SyncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil // Folders cannot be synced there; NTFS has a journal of their entries.
	}
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing the folder %s: %w", path, err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("syncing the folder %s: %w", path, err)
	}
	return nil
}
