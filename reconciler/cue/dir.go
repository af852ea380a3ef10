package cue

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/schema"
)

// Dir validates the policies below policyPath in a folder on disk, as if the
// folder were a commit. It uses a new Workspace. limitsFile is the Workspace's LimitsFile.
func Dir(ctx context.Context, dir, policyPath, limitsFile string) (*schema.Verdict, error) {
	w := New(policyPath)
	w.LimitsFile = limitsFile
	delta, err := w.Scan(ctx, dir)
	if err != nil {
		return nil, err
	}
	return w.Apply(ctx, delta)
}

// Scan returns a full delta of the files in a folder that the workspace reads.
// Symbolic links are rejected, as in git, and what may not be read. The delta's
// commit has no hash.
func (w *Workspace) Scan(ctx context.Context, dir string) (*reconciler.Delta, error) {
	delta := &reconciler.Delta{Close: func() error { return nil }}
	if info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(w.policyPath))); err != nil {
		return nil, fmt.Errorf("looking for policies: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("looking for policies: %s is not a folder", filepath.Join(dir, filepath.FromSlash(w.policyPath)))
	}
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, failure error) error {
		relative, err := filepath.Rel(dir, name)
		if err := cmp.Or(ctx.Err(), err); err != nil {
			return err
		}
		f := schema.File{Path: filepath.ToSlash(relative)}
		switch {
		case errors.Is(failure, fs.ErrPermission) && entry.IsDir() && relative != "." && f.Path != w.policyPath:
			f.Refusal = "this folder cannot be read: permission denied"
		case failure != nil:
			return failure
		case entry.IsDir():
			if relative != "." && entry.Name() == ".git" {
				return filepath.SkipDir
			}
			return nil
		case entry.Type()&fs.ModeSymlink != 0:
			f.Refusal = "this is a symbolic link; policies must be regular files"
		case !entry.Type().IsRegular():
			f.Refusal = "this is not a regular file; policies must be regular files"
		}
		if kindOf(w.policyPath, &f) == ignoredKind {
			return nil
		}
		if f.Refusal == "" {
			exists, err := w.fill(&f, name)
			switch {
			case errors.Is(err, fs.ErrPermission):
				f.Refusal = "this file cannot be read: permission denied"
			case !exists:
				return err
			}
		}
		delta.Files = append(delta.Files, f)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	return delta, nil
}

// fill sets the ID and Read of a file, and reads it unless it is too large. It
// reports whether the file still exists.
func (w *Workspace) fill(f *schema.File, name string) (bool, error) {
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // deleted since the folder was listed
	}
	if err != nil {
		return false, err
	}
	if size := info.Size(); size > w.MaxFileSize {
		f.ID = fmt.Sprintf("size %d, modified %d", size, info.ModTime().UnixNano())
		f.Read = func(context.Context, int64) ([]byte, error) { return nil, &schema.TooLarge{Size: size} }
		return true, nil
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(content)
	f.ID = hex.EncodeToString(sum[:])
	f.Read = func(_ context.Context, limit int64) ([]byte, error) {
		if size := int64(len(content)); size > limit {
			return nil, &schema.TooLarge{Size: size} // it has grown since Stat
		}
		return content, nil
	}
	return true, nil
}
