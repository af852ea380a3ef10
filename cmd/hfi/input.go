package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/boifi/hfi/schema"
)

// wantedPolicy is a policy from a file given to apply.
type wantedPolicy struct {
	name  string
	doc   document
	entry *schema.Entry
}

// textFor is the policy's text for a file of that name: as its author wrote it,
// except in a JSON file, which cannot hold YAML.
func (w wantedPolicy) textFor(file string) ([]byte, error) {
	if !strings.HasSuffix(file, ".json") || w.doc.json {
		return withNewline(w.doc.alone), nil
	}
	var text bytes.Buffer
	if err := json.Indent(&text, w.entry.Canonical, "", "  "); err != nil {
		return nil, fmt.Errorf("writing policy %q as JSON: %w", w.name, err)
	}
	return withNewline(text.Bytes()), nil
}

// readPolicies reads and validates the files given to apply. Problems are printed
// with the file names that the user gave.
func (a *app) readPolicies(ctx context.Context, files []string) ([]wantedPolicy, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder: %w", err)
	}
	defer os.RemoveAll(dir)
	var docs []document
	names := map[string]string{}
	for i, file := range files {
		text, err := a.readInput(file)
		if err != nil {
			return nil, err
		}
		found := splitDocuments(text)
		if len(found) == 0 {
			return nil, &exitError{exitInvalid, fmt.Errorf("%s has no policy", shown(file))}
		}
		docs = append(docs, found...)
		extension := ".yaml"
		if found[0].json || strings.HasSuffix(file, ".json") {
			extension = ".json"
		}
		checked := defaultPath + "/" + strconv.Itoa(i) + extension
		names[checked] = shown(file)
		if err := writeUnder(dir, checked, text); err != nil {
			return nil, err
		}
	}
	verdict, err := a.vet(ctx, dir, defaultPath)
	if err != nil {
		return nil, err
	}
	if verdict.Set == nil {
		for i, problem := range verdict.Errors {
			if name, ok := names[problem.File]; ok {
				verdict.Errors[i].File = name
			}
			for checked, name := range names {
				verdict.Errors[i].Message = strings.ReplaceAll(verdict.Errors[i].Message, checked, name)
			}
		}
		a.printProblems(a.stderr, "", &schema.Verdict{Errors: verdict.Errors})
		return nil, invalid(verdict.Errors)
	}
	return match(docs, verdict.Set)
}

// match pairs documents with the validated policies.
func match(docs []document, set *schema.Set) ([]wantedPolicy, error) {
	var wanted []wantedPolicy
	for _, doc := range docs {
		entry := set.Get(doc.name)
		if doc.name == "" || entry == nil {
			return nil, fmt.Errorf("cannot read the name of the policy at line %d: give each document a plain metadata.name", doc.line)
		}
		wanted = append(wanted, wantedPolicy{doc.name, doc, entry})
	}
	if len(wanted) != set.Len() {
		return nil, fmt.Errorf("the files have %s, and only %d could be located: put each in a file of its own",
			plural(set.Len(), "policy", "policies"), len(wanted))
	}
	return wanted, nil
}

func shown(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// readInput reads a file given to apply.
func (a *app) readInput(file string) ([]byte, error) {
	if strings.HasSuffix(file, ".cue") {
		return nil, usageError("%s: apply takes YAML and JSON; add CUE files to the repository with git", file)
	}
	var from io.Reader = a.stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("reading policies: %w", err)
		}
		defer opened.Close()
		if info, err := opened.Stat(); err == nil && info.IsDir() {
			return nil, usageError("%s is a folder: name the files in it, each with -f", file)
		}
		from = opened
	}
	text, err := io.ReadAll(io.LimitReader(from, maxPolicyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", shown(file), err)
	}
	if len(text) > maxPolicyFile {
		return nil, &exitError{exitInvalid, fmt.Errorf("%s is larger than 1 MiB, the limit for a file of policies", shown(file))}
	}
	return text, nil
}

// vetAlone validates one file by itself.
func (a *app) vetAlone(ctx context.Context, name string, text []byte) (*schema.Verdict, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder for %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	if err := writeUnder(dir, defaultPath+"/"+name, text); err != nil {
		return nil, err
	}
	return a.vet(ctx, dir, defaultPath)
}

// writeUnder writes a file below a temporary folder, and never outside of it.
func writeUnder(dir, file string, text []byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	defer root.Close()
	if err := root.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := root.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
