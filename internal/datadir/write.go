package datadir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// SyncFolder makes a folder's entries survive a power failure: files created,
// renamed or removed in it, but not their content.
func SyncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing the folder %s: %w", path, err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("syncing the folder %s: %w", path, err)
	}
	return nil
}
