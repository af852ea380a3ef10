package etcd

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// filesInterval is the time between two looks at a server's files.
const filesInterval = time.Second

// errFilesRemoved means that somebody removed a server's files. The server still
// has them open, and what it writes is lost when it ends.
var errFilesRemoved = errors.New("its data were removed while it ran")

func databaseFile(folder string) string { return filepath.Join(folder, "member", "snap", "db") }
func logFolder(folder string) string    { return filepath.Join(folder, "member", "wal") }

// serverFiles are the folders of a running server.
type serverFiles struct {
	folder string
	// infos are those of the folder itself and of those in which the server keeps its files.
	infos map[string]os.FileInfo
}

func openedFiles(folder string) (serverFiles, error) {
	f := serverFiles{folder: folder, infos: map[string]os.FileInfo{}}
	for _, path := range []string{folder, filepath.Dir(databaseFile(folder)), logFolder(folder)} {
		info, err := os.Stat(path)
		if err != nil {
			return f, err
		}
		f.infos[path] = info
	}
	return f, nil
}

// removed reports whether files that the server needs are gone, or others in
// their place. What cannot be looked at is not known to be gone.
func (f serverFiles) removed() bool {
	for path, opened := range f.infos {
		found, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(opened, found) {
			return true
		}
	}
	// Not compared: defragmentation replaces the database, and the log goes on in other files.
	_, err := os.Stat(databaseFile(f.folder))
	return errors.Is(err, os.ErrNotExist) || !hasLog(f.folder)
}

// hasLog reports whether there is a write-ahead log, or may be.
func hasLog(folder string) bool {
	_, err := os.ReadDir(logFolder(folder))
	return err != nil && !errors.Is(err, os.ErrNotExist) || wal.Exist(logFolder(folder))
}

// withoutLog reports whether a database belongs to a log that was removed: with
// another one etcd would never apply anything to it.
func withoutLog(folder string, tx *bolt.Tx) bool {
	meta := tx.Bucket(schema.Meta.Name())
	if meta == nil || hasLog(folder) {
		return false
	}
	index := meta.Get(schema.MetaConsistentIndexKeyName)
	return len(index) == 8 && binary.BigEndian.Uint64(index) > 0
}
