package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/schema"
)

func newApply(a *app) *cobra.Command {
	var files []string
	var flags changeFlags
	command := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Put policies into the repository: commit, push, wait until served",
		Long: `Put the policies of FILE, YAML or JSON, into the repository: in a temporary clone,
validated together with all other policies, committed and pushed; then it waits
until the daemon serves them. If another push comes first, it tries again.

A policy that the repository has already is replaced in its file; a new policy gets
a file of its own. Policies that a CUE package makes have to be edited there. If the
repository has the same policies already, there is no commit and the exit code is 0.

It runs your git command, with your credentials, signing key and hooks.`,
		Example: `  hfi apply -f frontend.yaml
  hfi apply -f a.yaml -f b.json --message "Begin the game day"
  generate | hfi apply -f - --no-wait
  HFI_REPO=git@example.org:chaos.git hfi apply -f frontend.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError("apply needs a file: hfi apply -f FILE")
			}
			wanted, err := a.readPolicies(cmd.Context(), files)
			if err != nil {
				return err
			}
			names := make([]string, len(wanted))
			for i, w := range wanted {
				names[i] = w.name
			}
			return a.change(cmd.Context(), &flags, "Apply", names, func(ctx context.Context, c *clone) error {
				return a.putAll(ctx, c, wanted)
			})
		},
	}
	command.Flags().StringArrayVarP(&files, "file", "f", nil, "`file` with policies, or - for standard input; may be repeated")
	must(command.MarkFlagFilename("file", "yaml", "yml", "json"))
	flags.register(command)
	return command
}

// putAll writes the wanted policies into a clone's work tree and validates the whole repository.
func (a *app) putAll(ctx context.Context, c *clone, wanted []wantedPolicy) error {
	created, err := a.putEach(ctx, c, wanted, false)
	if err != nil {
		return err
	}
	verdict, err := a.vet(ctx, c.dir, c.target.path)
	if err != nil {
		return err
	}
	if verdict.Set == nil && created {
		// A new file may be invalid because a CUE package has its policy already.
		if err := c.moveTo(ctx, "HEAD"); err != nil {
			return err
		}
		if _, err := a.putEach(ctx, c, wanted, true); err != nil {
			return err
		}
		if verdict, err = a.vet(ctx, c.dir, c.target.path); err != nil {
			return err
		}
	}
	return a.asWanted(verdict, wanted)
}

// asWanted checks that the repository is valid and holds the policies as their files say.
func (a *app) asWanted(verdict *schema.Verdict, wanted []wantedPolicy) error {
	if verdict.Set == nil {
		a.printProblems(a.stderr, "", verdict)
		return fmt.Errorf("with this change the repository is invalid, so nothing was pushed: %w", invalid(verdict.Errors))
	}
	for _, w := range wanted {
		if entry := verdict.Set.Get(w.name); entry == nil || entry.Hash != w.entry.Hash {
			return fmt.Errorf("policy %q would not become what its file says: edit it in the repository by hand", w.name)
		}
	}
	return nil
}

func (a *app) putEach(ctx context.Context, c *clone, wanted []wantedPolicy, thorough bool) (created bool, err error) {
	for _, w := range wanted {
		isNew, err := a.put(ctx, c, w, thorough)
		if err != nil {
			return false, err
		}
		created = created || isNew
	}
	return created, nil
}

// put writes one policy where it belongs.
func (a *app) put(ctx context.Context, c *clone, w wantedPolicy, thorough bool) (created bool, err error) {
	at, err := a.find(ctx, c, w.name, thorough)
	if errors.Is(err, errPolicyMissing) {
		return true, a.create(ctx, c, w)
	}
	if err != nil {
		return false, err
	}
	if at.entry != nil && at.entry.Hash == w.entry.Hash {
		return false, nil
	}
	if len(at.docs) == 0 {
		return false, fmt.Errorf("policy %q is made by the CUE package at %s:%d: edit it there and push", w.name, at.file, at.line)
	}
	if len(at.docs) > 1 {
		return false, a.replaceOneOfMany(ctx, c, w, at)
	}
	text, err := w.textFor(at.file)
	if err != nil {
		return false, err
	}
	if strings.HasSuffix(at.file, ".json") && !w.doc.json && a.sameMeaning(ctx, at, w) {
		// A JSON file cannot hold the YAML text, so only the meaning is compared.
		return false, nil
	}
	return false, c.write(ctx, at.file, text)
}

// create writes a policy to a file of its own.
func (a *app) create(ctx context.Context, c *clone, w wantedPolicy) error {
	extension := ".yaml"
	if w.doc.json {
		extension = ".json"
	}
	file := path.Join(c.target.path, w.name+extension)
	if _, err := c.read(file); err == nil {
		return fmt.Errorf("policy %q would be %s, which holds something else: rename that file, or edit it by hand", w.name, file)
	}
	text, err := w.textFor(file)
	if err != nil {
		return err
	}
	return c.write(ctx, file, text)
}

// replaceOneOfMany replaces one document of several, if that changes no other policy.
func (a *app) replaceOneOfMany(ctx context.Context, c *clone, w wantedPolicy, at *place) error {
	old := at.docs[at.index]
	next := replaceDocument(at.text, old, w.doc.text)
	before, errBefore := a.vetAlone(ctx, path.Base(at.file), at.text)
	after, errAfter := a.vetAlone(ctx, path.Base(at.file), next)
	if err := errors.Join(errBefore, errAfter); err != nil {
		return err
	}
	if before.Set != nil && after.Set != nil {
		changed := changedNames(before.Set, after.Set)
		switch {
		case len(changed) == 0:
			return nil
		case len(changed) == 1 && changed[0] == w.name:
			return c.write(ctx, at.file, next)
		}
	}
	return fmt.Errorf("policy %q stands with others in %s:%d, where it cannot be replaced safely: edit it there and push", w.name, at.file, at.line)
}

// changedNames are the names of the policies that differ in meaning between two sets, or that only one of them has.
func changedNames(from, to *schema.Set) []string {
	var names []string
	for _, change := range schema.Diff(from, to) {
		if !change.OriginOnly() {
			names = append(names, change.Name)
		}
	}
	return names
}

// sameMeaning reports whether a file with one policy means the same as the wanted policy.
func (a *app) sameMeaning(ctx context.Context, at *place, w wantedPolicy) bool {
	verdict, err := a.vetAlone(ctx, path.Base(at.file), at.text)
	if err != nil || verdict.Set == nil {
		return false
	}
	entry := verdict.Set.Get(w.name)
	return entry != nil && entry.Hash == w.entry.Hash
}
