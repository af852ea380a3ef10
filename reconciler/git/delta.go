package git

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

const (
	// maxDepth bounds the nesting of folders; git's default limit is the same.
	maxDepth = 2048
	// maxFiles bounds the files of a delta, and maxEntries the files and folders that
	// are compared for it: a few trees that occur in each other again and again have billions.
	maxFiles, maxEntries = 1 << 19, 1 << 21
)

// delta compares the policy folders of two commits by the hashes of their
// trees, and so reads only what differs. The delta uses the objects until it
// is closed.
func (s *Source) delta(ctx context.Context, from *objects, base, head string) (*reconciler.Delta, error) {
	o := from.use()
	closing := sync.OnceFunc(o.release)
	delta, err := s.compare(ctx, o, base, head)
	if err != nil {
		closing()
		return nil, err
	}
	delta.Close = func() error {
		closing()
		return nil
	}
	return delta, nil
}

func (s *Source) compare(ctx context.Context, o *objects, base, head string) (*reconciler.Delta, error) {
	s.trees.begin()
	keys, err := s.loadKeys()
	if err != nil {
		return nil, err
	}
	commit, text, err := o.commitText(ctx, plumbing.NewHash(head))
	if other := (*otherKindError)(nil); errors.As(err, &other) {
		return nil, s.notACommit(head, other.is)
	}
	if err != nil {
		return nil, err
	}
	w := &walk{ctx: ctx, objects: o, folder: s.folder}
	top, present, err := w.top(commit.TreeHash)
	if err != nil {
		return nil, err
	}
	delta := &reconciler.Delta{Commit: describe(commit, text, keys)}
	if !present {
		delta.Missing = fail("PathMissing", reconciler.WaitForPush, "commit %s has no folder %q on %s: push one, or start hfid with another --path", head, s.folder, s.reference())
	}
	if base != "" {
		err := w.since(base, commit.TreeHash, top)
		switch {
		case err == nil:
			delta.Base = base
		case ctx.Err() != nil:
			return nil, ctx.Err()
		default:
			// The base cannot be read: list everything. A defect of head itself fails there too.
			w.files, w.entries = nil, 0
		}
	}
	if delta.Base == "" {
		if err := w.compareFrom(top, plumbing.ZeroHash, commit.TreeHash); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(w.files, func(a, b schema.File) int { return cmp.Compare(a.Path, b.Path) })
	delta.Files = w.files
	return delta, nil
}

// walk collects the files that differ between two trees.
type walk struct {
	ctx     context.Context
	objects *objects
	folder  string
	files   []schema.File
	// entries counts what was compared.
	entries int
}

// notAFolder is the reason of an error for a policy folder that is something else.
const notAFolder = "PathNotAFolder"

// hasFolder says whether a commit has the policy folder.
func (s *Source) hasFolder(ctx context.Context, o *objects, hash string) (bool, error) {
	commit, err := o.commit(ctx, plumbing.NewHash(hash))
	if err != nil {
		return false, err
	}
	w := &walk{ctx: ctx, objects: o, folder: s.folder}
	_, present, err := w.top(commit.TreeHash)
	return present, err
}

// errOtherTop means that the base's files belong to another folder.
var errOtherTop = errors.New("the folder whose files count is another one")

// since compares with an earlier commit.
func (w *walk) since(base string, tree plumbing.Hash, top string) error {
	before, err := w.objects.commit(w.ctx, plumbing.NewHash(base))
	if err != nil {
		return err
	}
	// Without the policy folder, was is that folder: the files around it do not count either.
	was, _, err := w.top(before.TreeHash)
	if known := (*reconciler.SourceError)(nil); errors.As(err, &known) && known.Reason == notAFolder {
		was = w.folder
	} else if err != nil {
		return err
	}
	if was != top {
		return errOtherTop
	}
	return w.compareFrom(top, before.TreeHash, tree)
}

// top returns the folder whose files count: the nearest folder that is the root
// of a CUE module, from the policy folder upwards, or else the policy folder.
// present says whether the policy folder exists. Something else under its name
// is an error: a symbolic link, say, is not the removal of all policies.
func (w *walk) top(root plumbing.Hash) (top string, present bool, err error) {
	at, tree, below := "", root, w.folder
	top = w.folder
	for {
		text, err := w.tree(tree, at)
		if err != nil {
			return "", false, err
		}
		module, err := lookup(text, "cue.mod")
		if err != nil {
			return "", false, invalidTree(at, tree, err)
		}
		if module.folder() {
			top = at
		}
		if below == "" {
			return top, true, nil
		}
		var name string
		name, below, _ = strings.Cut(below, "/")
		inside, err := lookup(text, name)
		if err != nil {
			return "", false, invalidTree(at, tree, err)
		}
		at = path.Join(at, name)
		if inside.file() {
			return "", false, fail(notAFolder, reconciler.WaitForPush, "%q is %s in this commit, and policies must be in a folder: push one, or start hfid with another --path", at, inside.kind())
		}
		if inside.mode == 0 {
			return w.folder, false, nil
		}
		tree = inside.hash
	}
}

func (w *walk) tree(hash plumbing.Hash, folder string) ([]byte, error) {
	return w.objects.tree(w.ctx, hash, folder)
}

// find returns the hash of a folder below a tree, or zero.
func (w *walk) find(tree plumbing.Hash, folder string) (plumbing.Hash, error) {
	at := ""
	for name := range strings.SplitSeq(folder, "/") {
		if name == "" || tree.IsZero() {
			continue
		}
		text, err := w.tree(tree, at)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		found, err := lookup(text, name)
		if err != nil {
			return plumbing.ZeroHash, invalidTree(at, tree, err)
		}
		tree, at = found.subtree(), path.Join(at, name)
	}
	return tree, nil
}

func (w *walk) compareFrom(folder string, from, to plumbing.Hash) error {
	before, err := w.find(from, folder)
	if err != nil {
		return err
	}
	after, err := w.find(to, folder)
	if err != nil {
		return err
	}
	return w.compare(folder, before, after)
}

// wanted says whether a file counts by its path: every file in the policy folder, and CUE files outside it.
func (w *walk) wanted(file string) bool {
	return w.folder == "" || strings.HasPrefix(file, w.folder+"/") || strings.HasSuffix(file, ".cue")
}

func (w *walk) compare(folder string, from, to plumbing.Hash) error {
	if from == to {
		return nil
	}
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if strings.Count(folder, "/") > maxDepth {
		return fail("Unsupported", reconciler.WaitForPush, "folders are nested more than %d deep at %.100q…", maxDepth, folder)
	}
	before, err := w.tree(from, folder)
	if err != nil {
		return err
	}
	after, err := w.tree(to, folder)
	if err != nil {
		return err
	}
	was, is, err := difference(before, after)
	if err != nil {
		return invalidTree(folder, to, err)
	}
	if w.entries += len(was) + len(is); w.entries > maxEntries {
		return fail("Unsupported", reconciler.WaitForPush, "the commit has, or changes, more than %d files and folders at %q; at most that many are read", maxEntries, cmp.Or(w.folder, "."))
	}
	// A name that is a file in one tree and a folder in the other has different positions.
	old := make(map[string]entry, len(was))
	for _, e := range was {
		old[string(e.name)] = e
	}
	for _, e := range is {
		name := string(e.name)
		o := old[name]
		delete(old, name)
		if err := w.entry(folder, name, o, e); err != nil {
			return err
		}
	}
	for name, gone := range old {
		if err := w.entry(folder, name, gone, entry{}); err != nil {
			return err
		}
	}
	return nil
}

// entry compares the entries of one name. The zero entry means that there is none.
func (w *walk) entry(folder, name string, from, to entry) error {
	if folder != "" {
		name = folder + "/" + name
	}
	if from.mode == to.mode && from.hash == to.hash {
		return nil
	}
	if err := w.compare(name, from.subtree(), to.subtree()); err != nil {
		return err
	}
	if !w.wanted(name) {
		return nil
	}
	if len(w.files) >= maxFiles {
		return fail("Unsupported", reconciler.WaitForPush, "the commit has, or changes, more than %d files in %q; at most that many are read", maxFiles, cmp.Or(w.folder, "."))
	}
	switch {
	case to.file():
		w.add(name, to)
	case from.file():
		w.files = append(w.files, schema.File{Path: reconciler.EscapeName(name), Deleted: true})
	}
	return nil
}

func (w *walk) add(name string, e entry) {
	file := schema.File{Path: reconciler.EscapeName(name), ID: e.hash.String()}
	switch e.mode & typeBits {
	case typeLink:
		file.Refusal = "is " + e.kind() + "; policies must be regular files"
	case typeModule:
		file.Refusal = "is " + e.kind() + "; policies must be files of this repository"
	}
	if file.Refusal != "" {
		// A regular file with the same content must have another ID.
		file.ID += fmt.Sprintf(":%o", e.mode)
	}
	from, hash := w.objects, e.hash
	file.Read = func(ctx context.Context, limit int64) ([]byte, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text, err := from.read(ctx, plumbing.BlobObject, hash, limit)
		if err != nil {
			return nil, fmt.Errorf("reading %q (blob %s): %w", name, hash, err)
		}
		return text, nil
	}
	w.files = append(w.files, file)
}
