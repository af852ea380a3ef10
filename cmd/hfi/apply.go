package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/schema"
)

func newApply(a *app) *cobra.Command {
	var files []string
	var flags changeFlags
	var lifetime time.Duration
	command := &cobra.Command{
		Use:   "apply -f FILE|DIR",
		Short: "Create or update policies in the repository: commit, push, wait until served",
		Long: `Create or update the policies of FILE, YAML or JSON, or of all such files in DIR, in the
repository: in a temporary clone, hfi validates them together with all other policies,
commits and pushes; then it waits until the daemon serves them. If another push comes
first, it tries again. FILE may also be what "hfi get -o yaml" or -o json printed.

A policy that exists is replaced in its file; a new policy gets a file of its own.
Policies that a CUE package generates must be edited there. If nothing would change,
there is no commit, and the exit code is 0.

hfi runs your git command, with your credentials, signing key and hooks.`,
		Example: `  hfi apply -f frontend.yaml
  hfi apply -f game-day/ --message "Begin the game day" --for 30m
  hfi apply -f frontend.yaml --dry-run
  hfi get frontend-delay -o yaml | sed s/500/250/ | hfi apply -f -
  HFI_REPO=git@example.org:chaos.git hfi apply -f frontend.yaml`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{withNames: "true"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError("apply requires a file or folder: hfi apply -f FILE")
			}
			if cmd.Flags().Changed("for") && lifetime < time.Second {
				return usageError("--for must be 1s or more, not %v", lifetime)
			}
			wanted, err := a.readPolicies(cmd.Context(), files)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("for") {
				if wanted, err = a.expire(cmd.Context(), wanted, a.now().Add(lifetime)); err != nil {
					return err
				}
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
	command.Flags().StringArrayVarP(&files, "file", "f", nil, "`file` or folder with policies, or - for standard input; can be repeated; required")
	command.Flags().DurationVar(&lifetime, "for", 0, "`duration` after which the policies expire, such as 10m: sets spec.expires_at (default: as the files say)")
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
			return fmt.Errorf("policy %q would differ from its file after the change: edit it in the repository by hand", w.name)
		}
	}
	return nil
}

func (a *app) putEach(ctx context.Context, c *clone, wanted []wantedPolicy, thorough bool) (created bool, err error) {
	names := make([]string, len(wanted))
	for i, w := range wanted {
		names[i] = w.name
	}
	if err := c.locate(ctx, names); err != nil {
		return false, err
	}
	current, err := a.currentSet(ctx, c, wanted)
	if err != nil {
		return false, err
	}
	for _, w := range wanted {
		if entry := current.Get(w.name); w.doc.served && entry != nil && entry.Hash == w.entry.Hash {
			// The daemon's form of it says nothing that its author's does not.
			continue
		}
		isNew, err := a.put(ctx, c, w, thorough)
		if err != nil {
			return false, err
		}
		created = created || isNew
	}
	return created, nil
}

// currentSet is the set of policies in a clone, or an empty one if that is invalid, or
// if no wanted policy is to be compared with it.
func (a *app) currentSet(ctx context.Context, c *clone, wanted []wantedPolicy) (*schema.Set, error) {
	none := schema.NewSet()
	if !c.hasFolder() || !slices.ContainsFunc(wanted, func(w wantedPolicy) bool { return w.doc.served }) {
		return none, nil
	}
	verdict, err := a.vet(ctx, c.dir, c.target.path)
	if err != nil || verdict.Set == nil {
		return none, err
	}
	return verdict.Set, nil
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
		return false, fmt.Errorf("policy %q is generated by the CUE package at %s:%d: edit it there and push", w.name, at.file, at.line)
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
	file := path.Join(c.target.path, w.name+extension(w.doc.json))
	if _, err := c.read(file); err == nil {
		return fmt.Errorf("policy %q belongs in %s, which has other content: rename that file, or edit it by hand", w.name, file)
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
	return fmt.Errorf("policy %q shares its file with others and cannot be replaced safely: edit it at %s:%d and push", w.name, at.file, at.line)
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
