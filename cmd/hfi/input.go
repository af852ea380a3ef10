package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api/client"
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

// input is a file given to apply.
type input struct {
	name string
	text []byte
	docs []document
	// served says that "hfi get" wrote some of it.
	served bool
}

// read reads a file given to apply, and splits it into policies.
func (a *app) read(file string) (*input, error) {
	text, err := a.readInput(file)
	if err != nil {
		return nil, err
	}
	in := &input{name: shown(file), text: text}
	for _, doc := range splitDocuments(text) {
		found, err := stripServerFields(doc)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.name, err)
		}
		in.docs = append(in.docs, found...)
		in.served = in.served || len(found) != 1 || found[0].served
	}
	if !in.served && len(text) > maxPolicyFile {
		return nil, &exitError{exitInvalid, fmt.Errorf("%s is larger than 1 MiB, the limit for a file of policies", in.name)}
	}
	return in, nil
}

// checked are the texts to validate: the file or, if "hfi get" wrote some of it, each policy.
func (in *input) checked() []document {
	if !in.served {
		return []document{{checked: in.text, json: in.docs[0].json || strings.HasSuffix(in.name, ".json")}}
	}
	texts := slices.Clone(in.docs)
	for i, doc := range texts {
		if !doc.served {
			texts[i].checked = padded(doc.text, doc.line)
		}
	}
	return texts
}

// readPolicies reads and validates the files and folders given to apply. Errors and
// warnings are printed with the file names that the user gave.
func (a *app) readPolicies(ctx context.Context, files []string) ([]wantedPolicy, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder: %w", err)
	}
	defer os.RemoveAll(dir)
	inputs, err := a.readAll(ctx, files)
	if err != nil {
		return nil, err
	}
	var docs []document
	names := map[string]string{}
	for i, in := range inputs {
		docs = append(docs, in.docs...)
		for j, text := range in.checked() {
			checked := fmt.Sprintf("%s/%d-%d%s", defaultPath, i, j, extension(text.json))
			names[checked] = in.name
			if err := writeUnder(dir, checked, text.checked); err != nil {
				return nil, err
			}
		}
	}
	verdict, err := a.vet(ctx, dir, defaultPath)
	if err != nil {
		return nil, err
	}
	for _, problems := range [][]schema.Problem{verdict.Errors, verdict.Warnings} {
		for i, problem := range problems {
			problems[i].File = or(names[problem.File], problem.File)
			problems[i].Message = checkedFile.ReplaceAllStringFunc(problem.Message, func(checked string) string {
				return or(names[checked], checked)
			})
		}
	}
	a.printProblems(a.stderr, "", verdict)
	if verdict.Set == nil {
		return nil, invalid(verdict.Errors)
	}
	return match(docs, verdict.Set)
}

// checkedFile finds the name of a file that readPolicies validates in a message.
var checkedFile = regexp.MustCompile(defaultPath + `/\d+-\d+\.(yaml|json)`)

func extension(json bool) string {
	if json {
		return ".json"
	}
	return ".yaml"
}

// readAll reads files, and the policy files in folders.
func (a *app) readAll(ctx context.Context, files []string) ([]*input, error) {
	var inputs []*input
	for _, file := range files {
		info, err := os.Stat(file)
		if file == "-" || err != nil || !info.IsDir() {
			in, err := a.read(file)
			if err != nil {
				return nil, err
			}
			if len(in.docs) == 0 {
				return nil, &exitError{exitInvalid, fmt.Errorf("%s has no policy", in.name)}
			}
			inputs = append(inputs, in)
			continue
		}
		found, err := a.readFolder(ctx, file)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, found...)
	}
	return inputs, nil
}

// readFolder reads the policy files in a folder, at any depth, as the daemon would.
func (a *app) readFolder(ctx context.Context, folder string) ([]*input, error) {
	var inputs []*input
	err := walkPolicies(ctx, folder, func(file string) error {
		switch {
		case isPolicyFile(file):
			in, err := a.read(file)
			if err != nil {
				return err
			}
			if len(in.docs) > 0 {
				inputs = append(inputs, in)
			}
		case filepath.Ext(file) == ".cue":
			a.warn("%s is not applied: add CUE files to the repository with git", file)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the policies in %s: %w", folder, err)
	}
	if len(inputs) == 0 {
		return nil, &exitError{exitInvalid, fmt.Errorf("%s has no policy in a .yaml, .yml or .json file", folder)}
	}
	return inputs, nil
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

// expire sets spec.expires_at of all policies.
func (a *app) expire(ctx context.Context, wanted []wantedPolicy, at time.Time) ([]wantedPolicy, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder: %w", err)
	}
	defer os.RemoveAll(dir)
	docs := make([]document, len(wanted))
	for i, w := range wanted {
		doc := w.doc
		var errAlone, errText error
		doc.alone, errAlone = withExpiry(doc.alone, doc.json, at)
		doc.text, errText = withExpiry(doc.text, doc.json, at)
		if err := cmp.Or(errAlone, errText); err != nil {
			return nil, fmt.Errorf("policy %q: %w", w.name, err)
		}
		docs[i] = doc
		if err := writeUnder(dir, fmt.Sprintf("%s/%d%s", defaultPath, i, extension(doc.json)), doc.text); err != nil {
			return nil, err
		}
	}
	verdict, err := a.vet(ctx, dir, defaultPath)
	if err != nil {
		return nil, err
	}
	if verdict.Set == nil {
		return nil, fmt.Errorf("setting expires_at made a policy invalid: %s", verdict.Errors[0])
	}
	return match(docs, verdict.Set)
}

func shown(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// maxInput is the largest file given to apply, in bytes: an answer of the daemon
// with all its policies may be larger than a file of policies.
const maxInput = client.DefaultMaxAnswer

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
		from = opened
	}
	text, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", shown(file), err)
	}
	if len(text) > maxInput {
		return nil, &exitError{exitInvalid, fmt.Errorf("%s is larger than %d MiB", shown(file), maxInput>>20)}
	}
	return text, nil
}

// vetAlone validates one file by itself.
func (a *app) vetAlone(ctx context.Context, name string, text []byte) (*schema.Verdict, error) {
	return a.vetAloneWith(ctx, name, text, "")
}

// vetAloneWith is vetAlone with a file of limits, or "".
func (a *app) vetAloneWith(ctx context.Context, name string, text []byte, limits string) (*schema.Verdict, error) {
	dir, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder for %s: %w", name, err)
	}
	defer os.RemoveAll(dir)
	if err := writeUnder(dir, defaultPath+"/"+name, text); err != nil {
		return nil, err
	}
	return a.vetWith(ctx, dir, defaultPath, limits)
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
