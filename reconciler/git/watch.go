package git

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a burst of changes is gathered into one signal. It
	// is spent on every push, and so is short.
	settle = 2 * time.Millisecond
	// rewatch is how often a repository that cannot be watched is looked for,
	// and how often one that is watched is checked to be still the same.
	rewatch = time.Second
)

// watch signals each move of a ref until the context ends. What it cannot
// see (a repository that is not there, a system without watches to spare),
// the caller's own slow poll does.
func (s *Source) watch(ctx context.Context) {
	told := ""
	for ctx.Err() == nil {
		err := s.watchOnce(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != told {
			told = err.Error()
			s.Logger.Warn("the repository is not watched, so pushes are seen at the next poll only; trying again", "folder", s.address.display, "error", err, "every", rewatch)
		}
		timer := time.NewTimer(rewatch)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// watchOnce watches one life of the repository's folder.
func (s *Source) watchOnce(ctx context.Context) error {
	folder, err := gitFolder(s.address.local)
	if err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer watcher.Close()
	if err := watcher.Add(folder); err != nil {
		return err
	}
	refs := filepath.Join(folder, "refs")
	before, err := identities(folder, refs)
	if err != nil {
		return err
	}
	if err := addFolders(watcher, refs); err != nil {
		return err
	}
	// What moved before the watch stood is not told of by it.
	s.signal()
	var gathered <-chan time.Time
	check := time.NewTicker(rewatch)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
			// A watch follows a folder that is moved away, by a folder above it
			// too, and tells nothing of what takes its place.
			now, err := gitFolder(s.address.local)
			if err != nil || now != folder {
				s.signal()
				return err
			}
			if present, err := identities(folder, refs); err != nil || !slices.EqualFunc(before, present, os.SameFile) {
				s.signal()
				return err
			}
		case <-gathered:
			gathered = nil
			s.signal()
		case err := <-watcher.Errors:
			// Events were lost: look, and begin anew.
			s.signal()
			return err
		case event := <-watcher.Events:
			if event.Has(fsnotify.Remove|fsnotify.Rename) && (event.Name == folder || event.Name == refs) {
				s.signal()
				return nil
			}
			inRefs := within(refs, event.Name)
			if event.Has(fsnotify.Create) && inRefs {
				// A folder may hold refs already when its watch begins: the signal below covers them.
				_ = addFolders(watcher, event.Name)
			}
			if !inRefs && filepath.Base(event.Name) != "packed-refs" && filepath.Base(event.Name) != "HEAD" {
				continue
			}
			if filepath.Ext(event.Name) != ".lock" && gathered == nil {
				gathered = time.After(settle)
			}
		}
	}
}

// identities tell whether folders are still those that they were.
func identities(folders ...string) ([]os.FileInfo, error) {
	var infos []os.FileInfo
	for _, folder := range folders {
		info, err := os.Stat(folder)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func within(folder, name string) bool {
	relative, err := filepath.Rel(folder, name)
	return err == nil && filepath.IsLocal(relative)
}

// addFolders watches a folder and those in it. Where name is a file, or is
// gone again, there is nothing to watch.
func addFolders(watcher *fsnotify.Watcher, name string) error {
	return filepath.WalkDir(name, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil
		}
		return watcher.Add(path)
	})
}

func (s *Source) signal() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}
