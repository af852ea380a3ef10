package git

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/reconciler"
)

// maxSymbolic bounds the symbolic references that are followed, as in git.
const maxSymbolic = 5

// localHead returns the commit that the branch points to. It reads references
// itself because go-git, where a reference's file cannot be read, returns an
// older value from packed-refs: that would roll the policies back.
func (s *Source) localHead(gitFolder string) (string, error) {
	name := string(s.branch)
	if !filepath.IsLocal(filepath.FromSlash(name)) || strings.ContainsRune(name, 0) {
		return "", fail("BranchMissing", reconciler.Stalled, "%q is not a valid branch name: start hfid with another --branch", s.branch.Short())
	}
	for range maxSymbolic {
		value, err := readReference(gitFolder, name)
		if errors.Is(err, fs.ErrNotExist) {
			return "", s.branchMissing(branches(gitFolder), s.isTag(gitFolder))
		}
		if err != nil {
			return "", err
		}
		target, symbolic := strings.CutPrefix(value, "ref: ")
		if !symbolic {
			if !plumbing.IsHash(value) || plumbing.NewHash(value).IsZero() {
				return "", fail("Corrupt", reconciler.Stalled, "%s is damaged: %s in %s holds %.60q instead of a commit hash; push it again", s.reference(), name, gitFolder, value)
			}
			return value, nil
		}
		name = strings.TrimSpace(target)
		if !strings.HasPrefix(name, "refs/") || !filepath.IsLocal(filepath.FromSlash(name)) {
			return "", fail("Corrupt", reconciler.Stalled, "%s is damaged: it is a symbolic reference to %.60q; point it elsewhere with git symbolic-ref", s.reference(), name)
		}
	}
	return "", fail("BranchMissing", reconciler.Stalled, "%s is a chain of too many symbolic references; repair it with git symbolic-ref", s.reference())
}

// reference names what is followed, for messages.
func (s *Source) reference() string {
	switch {
	case s.branch.IsBranch():
		return "branch " + s.branch.Short()
	case s.branch.IsTag():
		return "tag " + s.branch.Short()
	}
	return "reference " + string(s.branch)
}

// tagOfThisName is the tag with the name of the branch.
func (s *Source) tagOfThisName() plumbing.ReferenceName {
	return plumbing.NewTagReferenceName(s.branch.Short())
}

// isTag says whether a local repository has a tag with the name of the branch.
func (s *Source) isTag(gitFolder string) bool {
	_, err := readReference(gitFolder, string(s.tagOfThisName()))
	return err == nil
}

// peel returns the commit of an annotated tag, or the hash itself if it is a commit's.
func (s *Source) peel(ctx context.Context, hash string) (string, error) {
	s.mu.Lock()
	tag, tagged := s.tag, s.tagged
	s.mu.Unlock()
	from := plumbing.NewHash(hash)
	if tag == from {
		return tagged.String(), nil
	}
	o, err := s.localObjects()
	if err != nil {
		return "", err
	}
	defer o.release()
	commit := from
	for range maxSymbolic {
		if _, err = o.commit(ctx, commit); err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tag, s.tagged = from, commit
			return commit.String(), nil
		}
		text, notATag := o.read(ctx, plumbing.TagObject, commit, maxCommit)
		if notATag != nil {
			break
		}
		target, _, _ := strings.Cut(strings.TrimPrefix(string(text), "object "), "\n")
		if !plumbing.IsHash(target) {
			break
		}
		commit = plumbing.NewHash(target)
	}
	return "", fmt.Errorf("%s does not lead to a commit that can be read: %w", s.reference(), err)
}

// readReference reads a reference from its file or else from packed-refs, or
// returns fs.ErrNotExist. git writes packed-refs before it deletes the file, so
// an existing reference is found.
func readReference(gitFolder, name string) (string, error) {
	text, err := os.ReadFile(filepath.Join(gitFolder, filepath.FromSlash(name)))
	if err == nil {
		return strings.TrimSpace(string(text)), nil
	}
	// A folder of this name, or a file in place of its parent, belongs to another reference.
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EISDIR) && !errors.Is(err, syscall.ENOTDIR) {
		return "", err
	}
	value := ""
	err = eachPacked(gitFolder, func(packed, hash string) bool {
		if packed == name {
			value = hash
		}
		return value == ""
	})
	if err == nil && value == "" {
		err = fs.ErrNotExist
	}
	return value, err
}

// eachPacked visits packed-refs until visit returns false.
func eachPacked(gitFolder string, visit func(name, hash string) bool) error {
	file, err := os.Open(filepath.Join(gitFolder, "packed-refs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		hash, name, found := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(" "))
		// Other lines are comments and peeled tags.
		if found && len(hash) == 2*len(plumbing.Hash{}) && !visit(string(name), string(hash)) {
			return nil
		}
		if err != nil {
			return nil
		}
	}
}

// branches returns a little more than maxNamed of the repository's branches at most.
func branches(gitFolder string) []string {
	var names []string
	heads := filepath.Join(gitFolder, "refs", "heads")
	_ = filepath.WalkDir(heads, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() && filepath.Ext(path) != ".lock" {
			if name, err := filepath.Rel(heads, path); err == nil {
				names = append(names, filepath.ToSlash(name))
			}
		}
		if len(names) > maxNamed {
			return fs.SkipAll
		}
		return nil
	})
	_ = eachPacked(gitFolder, func(name, _ string) bool {
		if short, isBranch := strings.CutPrefix(name, "refs/heads/"); isBranch {
			names = append(names, short)
		}
		return len(names) <= maxNamed
	})
	return names
}
