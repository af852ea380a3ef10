package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/boifi/hfi/schema"
)

// place is the location of a policy in a repository.
type place struct {
	// file is relative to the repository's root, with slashes.
	file string
	line int
	// docs are the file's documents: nil for a CUE package.
	docs []document
	text []byte
	// index is which of the documents it is.
	index int
	// entry is the validated policy; nil if it was found by its text alone.
	entry *schema.Entry
}

// maxPolicyFile is the largest file that can hold policies, in bytes.
const maxPolicyFile = 1 << 20

// errPolicyMissing means that the repository does not have the policy.
var errPolicyMissing = errors.New("not found")

// find finds a policy that locate was given: first by its name in the text of the YAML
// and JSON files, which is quick and works beside invalid files; then, if thorough, by
// validating the whole repository, which covers CUE packages.
func (a *app) find(ctx context.Context, c *clone, name string, thorough bool) (*place, error) {
	places, err := c.places(name)
	switch {
	case err != nil:
		return nil, err
	case len(places) == 1:
		return places[0], nil
	case len(places) > 1:
		return nil, &exitError{exitInvalid, fmt.Errorf("policy %q is defined twice, at %s:%d and %s:%d: remove one of them first",
			name, places[0].file, places[0].line, places[1].file, places[1].line)}
	case !thorough || !c.hasFolder():
		return nil, errPolicyMissing
	}
	verdict, err := a.vet(ctx, c.dir, c.target.path)
	if err != nil {
		return nil, err
	}
	if verdict.Set == nil {
		a.printProblems(a.stderr, "", verdict)
		return nil, fmt.Errorf("finding policy %q: branch %s is already invalid: %w", name, c.target.branch, invalid(verdict.Errors))
	}
	entry := verdict.Set.Get(name)
	if entry == nil {
		return nil, errPolicyMissing
	}
	return c.placeOf(entry)
}

// placeOf is the place of a policy whose name does not appear literally in its file.
func (c *clone) placeOf(entry *schema.Entry) (*place, error) {
	at := &place{file: entry.Origin.File, line: entry.Origin.Line, entry: entry}
	if !isPolicyFile(at.file) {
		return at, nil
	}
	text, err := c.read(at.file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", at.file, err)
	}
	at.text, at.docs = text, splitDocuments(text)
	for i, doc := range at.docs {
		if doc.name == entry.Name() {
			at.index = i
			return at, nil
		}
	}
	return nil, fmt.Errorf("policy %q is at %s:%d, in a form that hfi cannot change: edit it there and push", entry.Name(), at.file, at.line)
}

func isPolicyFile(file string) bool {
	return slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(file))
}

// walkPolicies visits the regular files in a folder that the daemon would look at, in order.
func walkPolicies(ctx context.Context, top string, visit func(file string) error) error {
	return filepath.WalkDir(top, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && file == top:
			return fs.SkipAll
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case file != top && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "cue.mod"):
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		return visit(file)
	})
}

// locate notes which files may define the named policies, in one pass: find then
// reads only those. It holds until the work tree changes by other means than write
// and remove.
func (c *clone) locate(ctx context.Context, names []string) error {
	located := map[string][]string{}
	for _, name := range names {
		located[name] = nil
	}
	err := walkPolicies(ctx, filepath.Join(c.dir, filepath.FromSlash(c.target.path)), func(file string) error {
		if !isPolicyFile(file) {
			return nil
		}
		if info, err := os.Stat(file); err != nil || info.Size() > maxPolicyFile {
			return err
		}
		text, err := os.ReadFile(file)
		if err != nil || len(names) == 1 && !bytes.Contains(text, []byte(names[0])) {
			return err
		}
		relative, err := filepath.Rel(c.dir, file)
		if err != nil {
			return err
		}
		for _, doc := range splitDocuments(text) {
			if files, wanted := located[doc.name]; wanted && !slices.Contains(files, filepath.ToSlash(relative)) {
				located[doc.name] = append(files, filepath.ToSlash(relative))
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("finding the policies: %w", err)
	}
	c.located = located
	return nil
}

// places returns the documents with a located name.
func (c *clone) places(name string) ([]*place, error) {
	var places []*place
	for _, file := range c.located[name] {
		text, err := c.read(file)
		if err != nil {
			return nil, fmt.Errorf("finding policy %q: %w", name, err)
		}
		docs := splitDocuments(text)
		for i, doc := range docs {
			if doc.name == name {
				places = append(places, &place{file: file, line: doc.line, docs: docs, text: text, index: i})
			}
		}
	}
	return places, nil
}
