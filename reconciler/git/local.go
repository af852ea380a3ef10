package git

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/boifi/hfi/reconciler"
)

// checkedFolder is gitFolder, with an error for formats that are not supported.
func checkedFolder(folder string) (string, error) {
	gitFolder, err := gitFolder(folder)
	if err != nil {
		return "", err
	}
	return gitFolder, supported(gitFolder)
}

// localObjects returns the local repository's objects. The caller must release them.
func (s *Source) localObjects() (*objects, error) {
	gitFolder, err := checkedFolder(s.address.local)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local == nil || s.local.gitFolder != gitFolder {
		if s.local != nil {
			s.local.retire()
		}
		s.local = &objects{gitFolder: gitFolder, trees: &s.trees, limits: s.packLimits}
	}
	return s.local.use(), nil
}

// gitFolder returns the folder with a repository's refs and objects: the folder
// itself if it is bare, its .git folder, or the target of its .git file.
func gitFolder(folder string) (string, error) {
	if _, err := os.Stat(folder); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return "", err
		}
		return "", fail("RepositoryMissing", reconciler.Stalled, "there is no repository at %s (%w)", folder, errors.Unwrap(err))
	}
	inside := filepath.Join(folder, ".git")
	info, err := os.Stat(inside)
	switch {
	case err == nil && info.IsDir():
		return inside, nil
	case err == nil:
		return linked(folder, inside)
	case errors.Is(err, fs.ErrPermission):
		return "", err
	}
	for _, part := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(folder, part)); errors.Is(err, fs.ErrPermission) {
			return "", err
		} else if err != nil {
			return "", fail("RepositoryMissing", reconciler.Stalled, "%s is not a git repository: it has neither .git nor %s", folder, part)
		}
	}
	return folder, nil
}

// linked follows the .git file of a linked work tree to the folder that the
// work trees share.
func linked(folder, file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	target, found := strings.CutPrefix(strings.TrimSpace(string(text)), "gitdir: ")
	if !found {
		return "", fail("RepositoryMissing", reconciler.Stalled, "%s is neither a folder nor a link to one", file)
	}
	if !filepath.IsAbs(target) {
		target = filepath.Join(folder, target)
	}
	common, err := os.ReadFile(filepath.Join(target, "commondir"))
	if errors.Is(err, fs.ErrNotExist) {
		return target, nil
	}
	if err != nil {
		return "", fmt.Errorf("reading the work tree's commondir: %w", err)
	}
	shared := strings.TrimSpace(string(common))
	if !filepath.IsAbs(shared) {
		shared = filepath.Join(target, shared)
	}
	return shared, nil
}

// supported returns an error for repository formats that go-git would misread.
func supported(gitFolder string) error {
	settings, err := readSettings(gitFolder)
	if err != nil {
		return err
	}
	for key, value := range settings {
		if key == "refstorage" && value != "files" || key == "objectformat" && value != "sha1" {
			return fail("Unsupported", reconciler.Stalled, "the repository uses %s = %s, which is not supported: use one with git's default formats (refs in files, SHA-1)", key, value)
		}
	}
	return nil
}

// readSettings returns the settings of a repository, without their sections.
// Without a configuration there are none: all is git's default.
func readSettings(gitFolder string) (map[string]string, error) {
	text, err := os.ReadFile(filepath.Join(gitFolder, "config"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the repository's configuration: %w", err)
	}
	settings := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.ToLower(strings.TrimSpace(line)), "=")
		settings[strings.TrimSpace(key)] = strings.Trim(strings.TrimSpace(value), `"`)
	}
	return settings, nil
}

// isPartial says whether a repository is a partial clone: one that has objects
// only once git fetched them on demand.
func isPartial(gitFolder string) bool {
	settings, err := readSettings(gitFolder)
	return err == nil && (settings["promisor"] == "true" || settings["partialclone"] != "")
}
