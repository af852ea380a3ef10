package git

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-git/go-billy/v5/osfs"
	gogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/memory"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/git/signature"
)

// clone is a bare, shallow clone of the branch in the data folder.
type clone struct {
	folder  string
	objects *objects
	// store is written by fetches. It stays open, because loading a large repository's index is slow.
	store store
	// predecessor is the clone that this one replaces, while a delta's base may be in it; else nil.
	predecessor *clone
	fetches     int
	// firstSize is the size after the first fetch, in bytes.
	firstSize int64
}

// store is go-git's access to a clone, which fetches write to.
type store struct {
	*filesystem.Storage
	cache *cache.ObjectLRU
}

func openStore(gitFolder string) store {
	objects := cache.NewObjectLRU(cacheSize)
	return store{filesystem.NewStorageWithOptions(osfs.New(gitFolder), objects, filesystem.Options{}), objects}
}

// maxGrowth is by how many bytes a clone may exceed twice its first size before
// it is replaced.
const maxGrowth = 64 << 20

// needsReplacement says whether a clone had maxFetches fetches or has grown too large.
func (m *clone) needsReplacement(maxFetches int) bool {
	return m.fetches >= maxFetches || folderSize(m.folder) > 2*m.firstSize+maxGrowth
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

// clearLeftovers removes the clones of an earlier process, which may be
// incomplete. A shallow clone is cheap to create again. What cannot be removed,
// on a disk that cannot be written, does no harm.
func (s *Source) clearLeftovers() {
	entries, err := os.ReadDir(s.dataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.Logger.Warn("listing old clones of the repository failed", "error", err)
	}
	for _, entry := range entries {
		// Other entries do not belong to this package.
		if isClone, _ := filepath.Match(clonePrefix+"*", entry.Name()); !isClone || !entry.IsDir() {
			continue
		}
		if err := os.RemoveAll(filepath.Join(s.dataDir, entry.Name())); err != nil {
			s.Logger.Warn("removing an old clone of the repository failed", "error", err)
		}
	}
}

// clonePrefix begins the names of the clones' folders.
const clonePrefix = "copy-"

// remoteHead asks the server for the branch's commit.
func (s *Source) remoteHead(ctx context.Context) (string, error) {
	remote := gogit.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{s.address.remote}})
	var references []*plumbing.Reference
	err := s.withAccess(ctx, func(a access) (err error) {
		references, err = remote.ListContext(ctx, &gogit.ListOptions{Auth: a.auth, ProxyOptions: a.dialing, PeelingOption: gogit.AppendPeeled})
		return err
	})
	if err != nil {
		return "", err
	}
	var others []string
	head, isTag := "", false
	for _, reference := range references {
		switch name := reference.Name(); {
		case reference.Type() != plumbing.HashReference:
		case name == s.branch+"^{}" && s.branch.IsBranch():
			return "", s.notACommit(head, plumbing.TagObject)
		case name == s.branch+"^{}", name == s.branch && head == "":
			// An annotated tag is followed by its commit, in the order that git lists.
			head = reference.Hash().String()
		case name.IsBranch():
			others = append(others, name.Short())
		case name == s.tagOfThisName():
			isTag = true
		}
	}
	if head == "" {
		return "", s.branchMissing(others, isTag)
	}
	return head, nil
}

// remoteDelta fetches what the clone lacks of head and compares head with base,
// if the clone still has base. If the clone fails or needs replacement, it
// creates another.
func (s *Source) remoteDelta(ctx context.Context, base, head string) (*reconciler.Delta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote != nil && !s.remote.needsReplacement(s.MaxFetches) {
		delta, err := s.fetchAndCompare(ctx, s.remote, base, head)
		if err == nil || ctx.Err() != nil || unrelatedToClone(err) {
			return delta, err
		}
		s.Logger.Info("replacing the clone of the repository", "error", s.scrub(err).Error())
	}
	fresh, err := s.newClone()
	if err != nil {
		return nil, err
	}
	fresh.predecessor = s.remote
	delta, err := s.fetchAndCompare(ctx, fresh, base, head)
	fresh.predecessor = nil
	if err != nil {
		fresh.objects.retire()
		return nil, err
	}
	fresh.firstSize = folderSize(fresh.folder)
	if s.remote != nil {
		s.remote.objects.retire()
	}
	s.remote = fresh
	return delta, nil
}

// unrelatedToClone says whether another clone would fail in the same way.
func unrelatedToClone(err error) bool {
	var known *reconciler.SourceError
	return errors.As(err, &known) && (known.Consequence == reconciler.WaitForPush || known.Reason != "ObjectMissing" && known.Reason != "Corrupt")
}

func (s *Source) newClone() (*clone, error) {
	// Somebody may have removed the folder, or it could not be created before.
	if err := datadir.Make(s.dataDir); err != nil {
		return nil, s.cannotWrite(err)
	}
	folder, err := os.MkdirTemp(s.dataDir, clonePrefix)
	if err != nil {
		return nil, s.cannotWrite(err)
	}
	if _, err := gogit.PlainInit(folder, true); err != nil {
		// Another try makes another folder.
		return nil, s.cannotWrite(errors.Join(err, os.RemoveAll(folder)))
	}
	o := &objects{gitFolder: folder, trees: &s.trees, limits: s.packLimits}
	// The folder stays until the last delta from it is closed.
	o.closed = func() {
		if err := os.RemoveAll(folder); err != nil {
			s.Logger.Warn("removing an old clone of the repository failed", "folder", folder, "error", err)
		}
	}
	return &clone{folder: folder, objects: o, store: openStore(folder)}, nil
}

func (s *Source) fetchAndCompare(ctx context.Context, m *clone, base, head string) (*reconciler.Delta, error) {
	if m.store.HasEncodedObject(plumbing.NewHash(head)) != nil {
		// With a depth, a server sends the whole commit again; without one, what the clone
		// lacks, on the assumption that it has all ancestors. If it needs one that it lacks
		// (after a forced push), an object is missing and the clone is replaced.
		depth := 0
		if m.fetches == 0 {
			depth = 1
		}
		m.fetches++
		defer m.store.cache.Clear()
		if err := s.fetch(ctx, m, depth); err != nil {
			m.store = openStore(m.folder)
			return nil, err
		}
		if m.store.HasEncodedObject(plumbing.NewHash(head)) != nil {
			if err := m.objects.missing(plumbing.CommitObject, plumbing.NewHash(head)); err != nil && m.fetched(s.branch) == head {
				return nil, err
			}
			return nil, fail("ObjectMissing", reconciler.Retry, "the branch moved from commit %s during the fetch", head)
		}
	}
	if m.predecessor != nil {
		// The base is in the predecessor: read its objects too for this comparison.
		alternate, err := addAlternate(m.folder, m.predecessor.folder)
		if err != nil {
			return nil, err
		}
		defer m.objects.shutNow()
		defer os.Remove(alternate)
	}
	return s.delta(ctx, m.objects, base, head)
}

// fetched returns what a branch pointed to in the last fetch, or an empty string.
func (m *clone) fetched(branch plumbing.ReferenceName) string {
	reference, err := m.store.Reference(branch)
	if err != nil {
		return ""
	}
	return reference.Hash().String()
}

// addAlternate makes a repository read objects from another one too, until the
// returned file is removed.
func addAlternate(gitFolder, from string) (file string, err error) {
	from, err = filepath.Abs(filepath.Join(from, "objects"))
	if err != nil {
		return "", fmt.Errorf("finding the predecessor of a clone: %w", err)
	}
	file = filepath.Join(gitFolder, "objects", "info", "alternates")
	if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
		err = os.WriteFile(file, []byte(from+"\n"), 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("adding the predecessor to a clone: %w", err)
	}
	return file, nil
}

// fetch fetches depth commits of the branch (0: all) into a clone.
func (s *Source) fetch(ctx context.Context, m *clone, depth int) error {
	spec := config.RefSpec(fmt.Sprintf("+%s:%s", s.branch, s.branch))
	return s.withAccess(ctx, func(a access) error {
		store := &receivingStore{m.store.Storage, ctx, a.operation, m}
		remote := gogit.NewRemote(store, &config.RemoteConfig{Name: "origin", URLs: []string{s.address.remote}})
		err := remote.FetchContext(ctx, &gogit.FetchOptions{
			RemoteName: "origin", RefSpecs: []config.RefSpec{spec}, Depth: depth,
			Auth: a.auth, ProxyOptions: a.dialing, Tags: gogit.NoTags, Force: true,
		})
		if errors.Is(err, gogit.NoErrAlreadyUpToDate) {
			return nil
		}
		return err
	})
}

// presentClone returns the objects of the present clone, which the caller releases, or
// nil if there is none.
func (s *Source) presentClone() *objects {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remote == nil {
		return nil
	}
	return s.remote.objects.use()
}

// remoteSince lists the commits of a remote: those of the present clone if it has
// them all, as it has after most pushes, else those of a temporary one.
func (s *Source) remoteSince(ctx context.Context, base, head string, keys *signature.Keys) (commits reconciler.Commits, err error) {
	if present := s.presentClone(); present != nil {
		defer present.release()
		if commits, err = since(ctx, present, base, head, keys); err == nil && commits.All || ctx.Err() != nil {
			return commits, err
		}
	}
	err = s.withHistory(ctx, func(o *objects, last bool) (bool, error) {
		commits, err = since(ctx, o, base, head, keys)
		return last || err == nil && commits.All, err
	})
	return commits, err
}

// remoteHasFolder looks in the present clone, which seldom lacks the commit, and then in the branch's history.
func (s *Source) remoteHasFolder(ctx context.Context, commit string) (has bool, err error) {
	if present := s.presentClone(); present != nil {
		defer present.release()
		if has, err = s.hasFolder(ctx, present, commit); err == nil || ctx.Err() != nil {
			return has, err
		}
	}
	err = s.withHistory(ctx, func(o *objects, last bool) (bool, error) {
		if _, missing := o.commit(ctx, plumbing.NewHash(commit)); missing != nil && !last {
			return false, nil
		}
		has, err = s.hasFolder(ctx, o, commit)
		return true, err
	})
	return has, err
}

// withHistory calls try with the objects of temporary clones of growing depths,
// until it says that it is done; the last has MaxSince commits. What is sought is
// rarely far away, and each commit of depth adds its files.
func (s *Source) withHistory(ctx context.Context, try func(o *objects, last bool) (done bool, err error)) error {
	for _, depth := range []int{20, 200, reconciler.MaxSince} {
		done := false
		tried, err := s.withClone(ctx, depth, func(o *objects) (err error) {
			done, err = try(o, depth == reconciler.MaxSince)
			return err
		})
		if !tried || done {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// withClone calls use with the objects of a temporary clone, unless it cannot be made.
func (s *Source) withClone(ctx context.Context, depth int, use func(*objects) error) (used bool, err error) {
	m, err := s.newClone()
	if err != nil {
		return false, err
	}
	defer m.objects.retire()
	if err := s.fetch(ctx, m, depth); err != nil {
		return false, err
	}
	return true, use(m.objects)
}
