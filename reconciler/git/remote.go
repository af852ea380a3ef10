package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/storage"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/boifi/hfi/reconciler"
)

// mirror is a bare, shallow copy of the branch in the data folder.
type mirror struct {
	folder  string
	objects *objects
	// store is what fetches write to. It stays open because a big repository's index takes a while to load.
	store storage.Storer
	// old is the copy that this one is about to replace, while the base of a delta may be in it.
	old     *mirror
	fetches int
	// first is the size of the copy after its first fetch, in bytes.
	first int64
}

// slack is how much a copy may grow beyond twice its first size, in bytes,
// before it is made anew.
const slack = 64 << 20

// worn says that a copy has piled up so many packs, or so much, that a new one is better.
func (m *mirror) worn(most int) bool {
	return m.fetches >= most || folderSize(m.folder) > 2*m.first+slack
}

// folderSize adds up the sizes of a folder's files.
func folderSize(folder string) (total int64) {
	_ = filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil
		}
		if info, err := entry.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// clearLeftovers removes the copies of an earlier process: what it left
// half done is not known, and a shallow copy is soon made again.
func (s *Source) clearLeftovers() error {
	if err := os.MkdirAll(s.dataDir, 0o700); err != nil {
		return fmt.Errorf("making the folder for copies of the repository: %w", err)
	}
	entries, err := os.ReadDir(s.dataDir)
	if err != nil {
		return fmt.Errorf("looking for old copies of the repository: %w", err)
	}
	for _, entry := range entries {
		// What else is in the folder is somebody else's.
		if copies, _ := filepath.Match(copyPrefix+"*", entry.Name()); !copies || !entry.IsDir() {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dataDir, entry.Name())); err != nil {
			return fmt.Errorf("removing an old copy of the repository: %w", err)
		}
	}
	return nil
}

// copyPrefix begins the names of the folders with copies.
const copyPrefix = "copy-"

// remoteHead asks the server where the branch is.
func (s *Source) remoteHead(ctx context.Context) (string, error) {
	remote := gogit.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{s.address.remote}})
	var references []*plumbing.Reference
	err := s.reach(ctx, func(a access) (err error) {
		references, err = remote.ListContext(ctx, &gogit.ListOptions{Auth: a.auth, CABundle: a.bundle, ProxyOptions: a.dialing})
		return err
	})
	if err != nil {
		return "", err
	}
	var others []string
	for _, reference := range references {
		if reference.Name() == s.branch && reference.Type() == plumbing.HashReference {
			return reference.Hash().String(), nil
		}
		if reference.Name().IsBranch() {
			others = append(others, reference.Name().Short())
		}
	}
	return "", s.branchMissing(others)
}

// remoteDelta fetches what is missing of head and compares it with base, if
// the copy still has that.
func (s *Source) remoteDelta(ctx context.Context, base, head string) (*reconciler.Delta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote != nil && !s.remote.worn(s.MaxFetches) {
		delta, err := s.fetchDelta(ctx, s.remote, base, head)
		if err == nil || ctx.Err() != nil || final(err) {
			return delta, err
		}
		s.Logger.Info("making the copy of the repository anew", "because", s.scrub(err).Error())
	}
	fresh, err := s.newMirror()
	if err != nil {
		return nil, err
	}
	fresh.old = s.remote
	delta, err := s.fetchDelta(ctx, fresh, base, head)
	fresh.old = nil
	if err != nil {
		fresh.objects.retire()
		return nil, err
	}
	fresh.first = folderSize(fresh.folder)
	if s.remote != nil {
		s.remote.objects.retire()
	}
	s.remote = fresh
	return delta, nil
}

// final says that another copy would fail in the same way.
func final(err error) bool {
	var known *reconciler.SourceError
	return errors.As(err, &known) && known.Reason != "ObjectMissing" && known.Reason != "Corrupt"
}

func (s *Source) newMirror() (*mirror, error) {
	folder, err := os.MkdirTemp(s.dataDir, copyPrefix)
	if err != nil {
		return nil, fmt.Errorf("making a folder for the copy of the repository: %w", err)
	}
	if _, err := gogit.PlainInit(folder, true); err != nil {
		return nil, fmt.Errorf("making a repository for the copy: %w", err)
	}
	o := &objects{gitFolder: folder, trees: &s.trees}
	// Deltas that are still read from the copy keep it.
	o.closed = func() {
		if err := os.RemoveAll(folder); err != nil {
			s.Logger.Warn("an old copy of the repository cannot be removed", "folder", folder, "error", err)
		}
	}
	return &mirror{folder: folder, objects: o, store: openStore(folder)}, nil
}

func (s *Source) fetchDelta(ctx context.Context, m *mirror, base, head string) (*reconciler.Delta, error) {
	if m.store.HasEncodedObject(plumbing.NewHash(head)) != nil {
		// Asked for a depth, a server sends the whole commit again; without one, what the copy
		// lacks. It takes the copy to have all ancestors: where they do matter (after a forced
		// push) an object is found missing, and the copy is made anew.
		depth := 0
		if m.fetches == 0 {
			depth = 1
		}
		m.fetches++
		if err := s.fetch(ctx, m.store, depth); err != nil {
			m.store = openStore(m.folder)
			return nil, err
		}
		if m.store.HasEncodedObject(plumbing.NewHash(head)) != nil {
			return nil, fail("ObjectMissing", reconciler.Retry, "the branch moved away from commit %s while it was fetched", head)
		}
	}
	if m.old != nil {
		// The base is in the copy that this one replaces: borrow from it for the comparison.
		borrowed, err := borrow(m.folder, m.old.folder)
		if err != nil {
			return nil, err
		}
		defer m.objects.shutNow()
		defer os.Remove(borrowed)
	}
	return s.delta(ctx, m.objects, base, head)
}

// borrow makes a repository look for objects in another one too, as long as
// the file is there that it names.
func borrow(gitFolder, from string) (file string, err error) {
	from, err = filepath.Abs(filepath.Join(from, "objects"))
	if err != nil {
		return "", fmt.Errorf("finding the older copy of the repository: %w", err)
	}
	file = filepath.Join(gitFolder, "objects", "info", "alternates")
	if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
		err = os.WriteFile(file, []byte(from+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("joining the older copy of the repository to the new one: %w", err)
	}
	return file, nil
}

// fetch brings the branch, so many commits deep (0: all), into a store.
func (s *Source) fetch(ctx context.Context, store storage.Storer, depth int) error {
	remote := gogit.NewRemote(store, &config.RemoteConfig{Name: "origin", URLs: []string{s.address.remote}})
	spec := config.RefSpec(fmt.Sprintf("+%s:%s", s.branch, s.branch))
	return s.reach(ctx, func(a access) error {
		err := remote.FetchContext(ctx, &gogit.FetchOptions{
			RemoteName: "origin", RefSpecs: []config.RefSpec{spec}, Depth: depth,
			Auth: a.auth, CABundle: a.bundle, ProxyOptions: a.dialing, Tags: gogit.NoTags, Force: true,
		})
		if errors.Is(err, gogit.NoErrAlreadyUpToDate) {
			return nil
		}
		return err
	})
}

// remoteSince reads history from deeper copies of its own, which it removes.
// The base is seldom far away, and depth brings old files along.
func (s *Source) remoteSince(ctx context.Context, base, head string) ([]reconciler.Commit, error) {
	for _, depth := range []int{20, 200, reconciler.MaxSince} {
		commits, found, err := s.sinceWithin(ctx, depth, base, head)
		if err != nil || found || depth == reconciler.MaxSince {
			return commits, err
		}
	}
	return nil, nil
}

func (s *Source) sinceWithin(ctx context.Context, depth int, base, head string) (commits []reconciler.Commit, found bool, err error) {
	m, err := s.newMirror()
	if err != nil {
		return nil, false, err
	}
	defer m.objects.retire()
	if err := s.fetch(ctx, openStore(m.folder), depth); err != nil {
		return nil, false, err
	}
	_, missing := m.objects.commit(ctx, plumbing.NewHash(base))
	commits, err = since(ctx, m.objects, base, head)
	return commits, missing == nil, err
}
