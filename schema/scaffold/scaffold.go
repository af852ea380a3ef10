// Package scaffold has the files of a new policy repository.
package scaffold

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/boifi/hfi/schema"
)

//go:embed all:repo
var repo embed.FS

// SchemaFile is the path of the schema in a policy repository.
const SchemaFile = "cue.mod/pkg/" + schema.ImportPath + "/policy.cue"

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

// Write creates a policy repository in a folder, and the folder if it does not
// exist. If any of the files exists already, Write returns an error and writes
// nothing.
func Write(folder string) error {
	files, err := Files()
	if err != nil {
		return err
	}
	var existing []error
	for path := range files {
		if _, err := os.Lstat(filepath.Join(folder, path)); err == nil {
			existing = append(existing, fmt.Errorf("%s already exists", filepath.Join(folder, path)))
		}
	}
	if len(existing) > 0 {
		return fmt.Errorf("nothing was written: %w", errors.Join(existing...))
	}
	for path, text := range files {
		file := filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("creating the folder of %s: %w", path, err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}
