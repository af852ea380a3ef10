// Package scaffold has the files of a new policy repository.
package scaffold

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/boifi/hfi/schema"
)

//go:embed all:repo
var repo embed.FS

// SchemaFile is the path of the schema in a policy repository.
const SchemaFile = "cue.mod/pkg/" + schema.ImportPath + "/policy.cue"

// LimitsFile is the path of the repository's own limits.
const LimitsFile = "cue.mod/pkg/" + schema.ImportPath + "/limits.cue"

// Files returns the content of the files of a new repository, by path.
func Files() (map[string][]byte, error) {
	files := map[string][]byte{SchemaFile: []byte(schema.CUE)}
	err := fs.WalkDir(repo, "repo", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := repo.ReadFile(path)
		files[path[len("repo/"):]] = text
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the files of a new policy repository: %w", err)
	}
	return files, nil
}

// Readme is the path of the file that describes a policy repository.
const Readme = "README.md"

// Write creates a policy repository in a folder, and the folder if it does not
// exist. A Readme that exists is kept, and reported; if any other of the files
// exists already, Write returns an error and writes nothing.
func Write(folder string) (keptReadme bool, err error) {
	files, err := Files()
	if err != nil {
		return false, err
	}
	if _, err := os.Lstat(filepath.Join(folder, Readme)); err == nil {
		keptReadme = true
		delete(files, Readme)
	}
	var existing []string
	for path := range files {
		if _, err := os.Lstat(filepath.Join(folder, path)); err == nil {
			existing = append(existing, filepath.Join(folder, path))
		}
	}
	if len(existing) > 0 {
		slices.Sort(existing)
		return false, fmt.Errorf("nothing was written: %s already exists", strings.Join(existing, ", "))
	}
	for path, text := range files {
		file := filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return false, fmt.Errorf("creating the folder of %s: %w", path, err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return false, fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return keptReadme, nil
}
