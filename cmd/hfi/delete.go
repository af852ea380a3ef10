package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newDelete(a *app) *cobra.Command {
	var flags changeFlags
	var ignoreMissing bool
	command := &cobra.Command{
		Use:   "delete NAME...",
		Short: "Take policies out of the repository: commit, push, wait",
		Long: `Remove the files of the named policies from the repository: in a temporary clone,
committed and pushed; then it waits until the daemon serves the result. If another
push comes first, it tries again. A policy that shares its file with others, or that
a CUE package makes, is not removed: the error names its file and line.

The daemon refuses a commit that removes all or most of ten or more policies,
unless its message allows it: --allow-prune adds the trailer that does.`,
		Example: `  hfi delete frontend-delay
  hfi delete frontend-delay cart-abort --message "End of the game day" --allow-prune`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("hfi delete takes NAME, a policy's name; it was given none")
			}
			return nil
		},
		ValidArgsFunction: a.completeNames(100),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.change(cmd.Context(), &flags, "Delete", names, func(ctx context.Context, c *clone) error {
				return a.deleteAll(ctx, c, names, ignoreMissing)
			})
		},
	}
	command.Flags().BoolVar(&ignoreMissing, "ignore-not-found", false, "a policy that is not there is no failure")
	flags.register(command)
	return command
}

// deleteAll removes policies from a clone's work tree and validates what is left.
func (a *app) deleteAll(ctx context.Context, c *clone, names []string, ignoreMissing bool) error {
	deleted := 0
	for _, name := range names {
		at, err := a.find(ctx, c, name, true)
		switch {
		case errors.Is(err, errPolicyMissing) && ignoreMissing:
			continue
		case errors.Is(err, errPolicyMissing):
			return &exitError{exitNotFound, fmt.Errorf("there is no policy %q in %s on branch %s", name, c.target.path, c.target.branch)}
		case err != nil:
			return err
		case len(at.docs) == 0:
			return fmt.Errorf("policy %q is made by the CUE package at %s:%d: take it out there and push", name, at.file, at.line)
		case len(at.docs) > 1:
			return fmt.Errorf("policy %q is not alone in its file: take it out at %s:%d and push", name, at.file, at.line)
		}
		if err := c.remove(ctx, at.file); err != nil {
			return err
		}
		deleted++
	}
	if deleted == 0 {
		return nil
	}
	if err := c.keepFolder(ctx); err != nil {
		return err
	}
	verdict, err := a.vet(ctx, c.dir, c.target.path)
	if err != nil {
		return err
	}
	return a.asWanted(verdict, nil)
}
