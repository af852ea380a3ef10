// Package lastgood keeps the last verified set of policies in the daemon's
// data folder: reconciler.LastGood on disk.
//
// It is one file, a journal of records: the policies that were put and
// deleted since the record of the head before, then the head itself, with
// its digest. Every record has a checksum, and a state counts only when it
// is followed by its head and has the head's digest. So whatever a crash or
// a bad disk leaves of the file's end, what is before it still loads, and
// saving costs what has changed. Where the changes outgrow the set, the
// journal is written anew beside the old one and takes its place.
package lastgood

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Defaults of Store.
const (
	// DefaultSlack is in bytes.
	DefaultSlack = 1 << 20
)

// Store is a journal in a folder that the caller has locked.
type Store struct {
	// Folder is made by the first Save.
	Folder string
	// Slack is how many bytes of changes a journal may hold beyond the size that it was begun with.
	Slack int64

	logger *slog.Logger
	// syncFolder makes a folder's entries survive a crash; a test's may fail.
	syncFolder func(path string) error

	mu sync.Mutex
	// loaded says that the fields below tell what the file holds.
	loaded bool
	state  *reconciler.State
	// good is the length of the journal up to its last verified head; what
	// follows is dropped by the next Save.
	good int64
	// base is the length at the journal's first head.
	base int64
	// doubtful says that the last Save failed, and the file must be written anew.
	doubtful bool
}

// New keeps the last good set in a folder.
func New(folder string, logger *slog.Logger) *Store {
	return &Store{Folder: folder, Slack: DefaultSlack, logger: logger, syncFolder: syncFolder}
}

func (s *Store) path() string { return filepath.Join(s.Folder, "journal") }

// Load gives the last state that verifies, or nil if there is none. It
// returns an error only when there is a journal, and nothing in it verifies.
// The disk is read until there is a state, and then no more.
func (s *Store) Load() (*reconciler.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		return s.state, nil
	}
	return s.load()
}

func (s *Store) load() (*reconciler.State, error) {
	s.state, s.good, s.base, s.loaded, s.doubtful = nil, 0, 0, true, false
	file, err := os.Open(s.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		s.doubtful = true
		return nil, fmt.Errorf("opening the last good set: %w", err)
	}
	defer file.Close()
	result, err := replay(file)
	s.state, s.good, s.base = result.state, result.good, result.base
	if err != nil && result.state == nil {
		return nil, fmt.Errorf("the last good set in %s cannot be used; it is written anew with the next one: %w", s.path(), err)
	}
	if err != nil {
		s.logger.Warn("the end of the last good set on disk is damaged; what is before it is used",
			"file", s.path(), "at_byte", result.good, "commit", result.state.Head.Commit, "error", err)
	}
	return s.state, nil
}

// Save keeps a state. It returns once the state would survive a crash; when
// it fails, the state before can still be loaded.
func (s *Store) Save(state *reconciler.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		// What cannot be read is about to be replaced.
		_, _ = s.load()
	}
	var err error
	if s.state == nil || s.doubtful {
		err = s.rewrite(state)
	} else {
		changes := appendState(nil, s.state.Set, state)
		if s.good+int64(len(changes)) > 2*s.base+s.Slack {
			err = s.rewrite(state)
		} else {
			err = s.extend(state, changes)
		}
	}
	if err != nil {
		return fmt.Errorf("keeping the last good set: %w", err)
	}
	return nil
}

// extend appends to the journal, over whatever follows its last verified head.
func (s *Store) extend(state *reconciler.State, changes []byte) error {
	s.doubtful = true
	file, err := os.OpenFile(s.path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(s.good); err != nil {
		return err
	}
	if _, err := file.WriteAt(changes, s.good); err != nil {
		// The half-written end would be passed over; without it the file is as it was.
		return errors.Join(err, file.Truncate(s.good))
	}
	if err := file.Sync(); err != nil {
		return err
	}
	s.state, s.good, s.doubtful = state, s.good+int64(len(changes)), false
	return nil
}

// rewrite writes a journal of nothing but this state, and puts it in place at once.
func (s *Store) rewrite(state *reconciler.State) error {
	// From the renaming on the file may be the new one, though this fails.
	s.doubtful = true
	if err := os.MkdirAll(s.Folder, 0o700); err != nil {
		return err
	}
	text := appendState([]byte(magic), schema.NewSet(), state)
	temporary := s.path() + ".tmp"
	if err := writeSynced(temporary, text); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	if err := os.Rename(temporary, s.path()); err != nil {
		return err
	}
	if err := s.syncFolder(s.Folder); err != nil {
		return err
	}
	// The folder itself may be new.
	if err := s.syncFolder(filepath.Dir(s.Folder)); err != nil {
		return err
	}
	s.state, s.good, s.base, s.doubtful = state, int64(len(text)), int64(len(text)), false
	return nil
}

func writeSynced(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

var _ reconciler.LastGood = (*Store)(nil)
