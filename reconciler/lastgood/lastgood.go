// Package lastgood keeps the last verified set of policies in the daemon's
// data folder: reconciler.LastGood on disk.
//
// It is one file, a journal of records: the policies that were put and deleted
// since the previous head, then the new head with its digest. Every record has
// a checksum, and a state is valid only if its head follows it, has its digest,
// and is signed with a state key. So after a crash or disk error that damages the end of the file, the
// state before still loads, and a save writes only what changed. When the
// changes outgrow the set, a new journal with the current state replaces the
// old one.
package lastgood

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Defaults of Store.
const (
	// DefaultSlack is in bytes.
	DefaultSlack = 1 << 20
)

// Store keeps a journal in a folder. The caller must have locked the data folder.
type Store struct {
	// Folder is created by the first Save.
	Folder string
	// Slack is how many bytes a journal may exceed twice its initial size before it is rewritten.
	Slack int64

	keys   *statekey.Keys
	logger *slog.Logger
	// writeFile is datadir.WriteFile, or a test's that fails.
	writeFile func(path string, content []byte) error

	mu sync.Mutex
	// loaded is set once the fields below describe the file.
	loaded bool
	state  *reconciler.State
	// good is the length of the journal up to its last valid head. The next Save
	// overwrites what follows.
	good int64
	// base is the length of the journal up to its first head.
	base int64
	// writeOutcomeUnknown is set if the last Save failed: the next must rewrite the file.
	writeOutcomeUnknown bool
}

// ErrForged means that a journal has no state that a daemon with one of this
// daemon's state keys has saved.
var ErrForged = errors.New("it is not from a daemon with this daemon's state key")

// New returns a Store with default tunables. What it saves is signed with keys,
// and what they do not verify is not loaded.
func New(folder string, keys *statekey.Keys, logger *slog.Logger) *Store {
	return &Store{Folder: folder, Slack: DefaultSlack, keys: keys, logger: logger, writeFile: datadir.WriteFile}
}

func (s *Store) path() string { return filepath.Join(s.Folder, "journal") }

// Load returns the last valid state, or nil if there is no journal. It returns
// an error if the journal has no valid state. Once there is a state, Load does
// not read the disk again.
func (s *Store) Load() (*reconciler.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		return s.state, nil
	}
	return s.load()
}

func (s *Store) load() (*reconciler.State, error) {
	s.state, s.good, s.base, s.loaded, s.writeOutcomeUnknown = nil, 0, 0, true, false
	file, err := os.Open(s.path())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		s.writeOutcomeUnknown = true
		return nil, fmt.Errorf("opening the last good set: %w", err)
	}
	defer file.Close()
	result, err := replay(file, s.keys)
	s.state, s.good, s.base = result.state, result.good, result.base
	if err != nil && result.state == nil {
		return nil, fmt.Errorf("the last good set in %s is invalid; the next save replaces it: %w", s.path(), err)
	}
	if err != nil {
		s.logger.Warn("the end of the last good set on disk is damaged or forged; the state before it is used",
			"file", s.path(), "offset_bytes", result.good, "commit", result.state.Head.Commit, "error", err)
	}
	return s.state, nil
}

// Save stores a state. When it returns nil, the state survives a crash. When it
// fails, the previous state can still be loaded.
func (s *Store) Save(state *reconciler.State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		// A journal that cannot be read is replaced below.
		_, _ = s.load()
	}
	var err error
	if s.state == nil || s.writeOutcomeUnknown {
		err = s.rewrite(state)
	} else {
		changes := appendState(nil, s.state.Set, state, s.keys)
		if s.good+int64(len(changes)) > 2*s.base+s.Slack {
			err = s.rewrite(state)
		} else {
			err = s.extend(state, changes)
		}
	}
	if err != nil {
		return fmt.Errorf("saving the last good set: %w", err)
	}
	return nil
}

// Check returns what prevents that files are written in the folder's parent,
// the data folder, reconciler.ErrNotOnDisk if there was a state and the journal
// is gone, or nil.
func (s *Store) Check() error {
	if err := datadir.Folder(filepath.Dir(s.Folder)).Check(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		return nil
	}
	if _, err := os.Stat(s.path()); errors.Is(err, os.ErrNotExist) {
		s.writeOutcomeUnknown = true // There is no file to append to.
		return fmt.Errorf("%w: %s", reconciler.ErrNotOnDisk, s.path())
	}
	return nil
}

// extend appends to the journal after its last valid head.
func (s *Store) extend(state *reconciler.State, changes []byte) error {
	s.writeOutcomeUnknown = true
	file, err := os.OpenFile(s.path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(s.good); err != nil {
		return err
	}
	if _, err := file.WriteAt(changes, s.good); err != nil {
		// Load would ignore the incomplete end; remove it nevertheless.
		return errors.Join(err, file.Truncate(s.good))
	}
	if err := file.Sync(); err != nil {
		return err
	}
	s.state, s.good, s.writeOutcomeUnknown = state, s.good+int64(len(changes)), false
	return nil
}

// rewrite replaces the journal with one that has only this state.
func (s *Store) rewrite(state *reconciler.State) error {
	// If this fails, the file may be the old one or the new one.
	s.writeOutcomeUnknown = true
	if err := datadir.Make(s.Folder); err != nil {
		return err
	}
	text := appendState([]byte(magic), schema.NewSet(), state, s.keys)
	if err := s.writeFile(s.path(), text); err != nil {
		return err
	}
	// The folder may have been created above.
	if err := datadir.SyncFolder(filepath.Dir(s.Folder)); err != nil {
		return err
	}
	s.state, s.good, s.base, s.writeOutcomeUnknown = state, int64(len(text)), int64(len(text)), false
	return nil
}

var _ reconciler.LastGood = (*Store)(nil)
