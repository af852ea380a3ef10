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
	// debounce is the time during which changes are combined into one signal. It
	// delays every push, and so is short.
	debounce = 2 * time.Millisecond
	// watchInterval is the time between attempts to watch a repository, and
	// between checks that a watched folder is still in its place.
	watchInterval = time.Second
)

// watch signals each change of a ref until the context ends. If the repository
// cannot be watched (because it does not exist, or the system has no watches
// left), the caller's slower polling detects changes.
func (s *Source) watch(ctx context.Context) {
	logged := ""
	for ctx.Err() == nil {
		err := s.watchOnce(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != logged {
			logged = err.Error()
			s.Logger.Warn("watching the repository failed; pushes are detected by polling until it succeeds", "folder", s.address.display, "error", err, "retry_every", watchInterval)
		}
		timer := time.NewTimer(watchInterval)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// watchOnce watches the repository until its folder is removed or replaced.
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
	before, err := fileInfos(folder, refs)
	if err != nil {
		return err
	}
	if err := addFolders(watcher, refs); err != nil {
		return err
	}
	// Changes before the watch began have no event.
	s.signal()
	var gathered <-chan time.Time
	check := time.NewTicker(watchInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-check.C:
			// The watch of a folder that was moved, itself or with a parent, stays
			// with it, and has no events of the folder that takes its place.
			now, err := gitFolder(s.address.local)
			if err != nil || now != folder {
				s.signal()
				return err
			}
			if current, err := fileInfos(folder, refs); err != nil || !slices.EqualFunc(before, current, os.SameFile) {
				s.signal()
				return err
			}
		case <-gathered:
			gathered = nil
			s.signal()
		case err := <-watcher.Errors:
			// Events were lost: signal, and start a new watch.
			s.signal()
			return err
		case event := <-watcher.Events:
			if event.Has(fsnotify.Remove|fsnotify.Rename) && (event.Name == folder || event.Name == refs) {
				s.signal()
				return nil
			}
			inRefs := within(refs, event.Name)
			if event.Has(fsnotify.Create) && inRefs {
				// Refs that exist before the folder is watched are covered by the signal below.
				_ = addFolders(watcher, event.Name)
			}
			if !inRefs && filepath.Base(event.Name) != "packed-refs" && filepath.Base(event.Name) != "HEAD" {
				continue
			}
			if filepath.Ext(event.Name) != ".lock" && gathered == nil {
				gathered = time.After(debounce)
			}
		}
	}
}

// fileInfos identifies folders, for os.SameFile.
func fileInfos(folders ...string) ([]os.FileInfo, error) {
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

// addFolders watches a folder and those in it. It ignores files and what was
// removed again.
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
