package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api/client"
	"github.com/boifi/hfi/schema"
)

func newDiff(a *app) *cobra.Command {
	var from, folder string
	var strict bool
	command := &cobra.Command{
		Use:   "diff REV",
		Short: "Show what would change if a revision were applied",
		Long: `Show which served policies would be added, removed or changed, and in which
fields, if the daemon applied REV, a revision of the repository here. Only
committed files count, not the work tree.`,
		Example: `  hfi diff HEAD
  hfi diff origin/game-day --exit-code
  hfi diff main --repo https://example.org/chaos.git`,
		Args:              exactly(1, "REV, a revision of the repository"),
		ValidArgsFunction: completeRevisions,
		Annotations:       map[string]string{withNames: "true"},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			daemon, err := a.client()
			if err != nil {
				return err
			}
			policies, _, err := daemon.Policies(ctx, client.Selector{})
			if err != nil {
				return fmt.Errorf("getting the policies served: %w", err)
			}
			if folder == "" {
				status, _, err := daemon.Status(ctx)
				if err != nil {
					return fmt.Errorf("asking the daemon for its policy folder: %w", err)
				}
				folder = or(status.Source.Path, defaultPath)
			}
			set, err := a.setAt(ctx, from, args[0], path.Clean(strings.Trim(folder, "/")))
			if err != nil {
				return err
			}
			changes := compare(setOf(policies), set)
			if err := a.printChanges(changes); err != nil {
				return err
			}
			if strict && !changes.none() {
				return &exitError{exitDiffers, fmt.Errorf("%s would change what is served", args[0])}
			}
			return nil
		},
	}
	command.Flags().StringVar(&from, "repo", "", "`folder` or URL of the repository (default: the current folder's)")
	command.Flags().StringVar(&folder, "path", "", "`folder` of the policies in the repository (default: the daemon's)")
	command.Flags().BoolVar(&strict, "exit-code", false, "exit with 5 if anything would change")
	return command
}

func setOf(policies []*schema.Policy) *schema.Set {
	entries := make([]*schema.Entry, len(policies))
	for i, policy := range policies {
		entries[i] = schema.NewEntry(policy, schema.Origin{})
	}
	return schema.NewSet(entries...)
}

// setAt is the set of policies at a revision of a repository.
func (a *app) setAt(ctx context.Context, from, revision, folder string) (*schema.Set, error) {
	temporary, err := os.MkdirTemp("", "hfi-")
	if err != nil {
		return nil, fmt.Errorf("creating a temporary folder for %s: %w", revision, err)
	}
	defer os.RemoveAll(temporary)
	r, err := a.openRepo(ctx, from, temporary)
	if err != nil {
		return nil, err
	}
	commit, err := r.commitHash(ctx, revision)
	if err != nil {
		return nil, fmt.Errorf("finding %s: %w", revision, err)
	}
	tree := filepath.Join(temporary, "tree")
	if err := r.export(ctx, commit, folder, tree); err != nil {
		return nil, fmt.Errorf("reading %s: %w", revision, err)
	}
	verdict, err := a.vet(ctx, tree, folder)
	if err != nil {
		return nil, err
	}
	if verdict.Set == nil {
		a.printProblems(a.stderr, "", verdict)
		return nil, fmt.Errorf("%s is invalid and would not be applied: %w", revision, invalid(verdict.Errors))
	}
	return verdict.Set, nil
}

// openRepo is a repository on this machine, or a bare clone of one elsewhere.
func (a *app) openRepo(ctx context.Context, from, temporary string) (repo, error) {
	if from == "" {
		// Run at the top level: git ls-tree prints paths relative to its folder.
		top, err := repo{}.git(ctx, "rev-parse", "--show-toplevel")
		if err != nil {
			if _, bare := (repo{}).git(ctx, "rev-parse", "--git-dir"); bare != nil {
				return repo{}, usageError("not in a git repository: change to one, or set --repo")
			}
			return repo{}, nil
		}
		return repo{strings.TrimSuffix(top, "\n")}, nil
	}
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		return repo{from}, nil
	}
	if strings.HasPrefix(from, "-") {
		return repo{}, usageError("--repo must not begin with a dash")
	}
	a.step("Cloning %s", withoutPassword(from))
	bare := filepath.Join(temporary, "bare")
	if _, err := (repo{temporary}).git(ctx, "clone", "--quiet", "--bare", "--", located(from), bare); err != nil {
		return repo{}, fmt.Errorf("cloning %s: %w", withoutPassword(from), err)
	}
	return repo{bare}, nil
}
