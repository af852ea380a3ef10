package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api/client"
)

// completionLimit bounds what completion asks: the user is waiting at the prompt.
const completionLimit = time.Second

// limitedCompletion is a context for completion.
func limitedCompletion(cmd *cobra.Command) (context.Context, context.CancelFunc) {
	return context.WithTimeout(cmp.Or(cmd.Context(), context.Background()), completionLimit)
}

// completions are the values with a prefix, sorted, each once; never file names.
func completions(values []string, prefix string) ([]string, cobra.ShellCompDirective) {
	values = slices.DeleteFunc(values, func(value string) bool { return value == "" || !strings.HasPrefix(value, prefix) })
	slices.Sort(values)
	return slices.Compact(values), cobra.ShellCompDirectiveNoFileComp
}

// completeNames completes the names of served policies, for up to limit arguments.
func (a *app) completeNames(limit int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		daemon, err := a.client()
		if err != nil || len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := limitedCompletion(cmd)
		defer cancel()
		policies, _, err := daemon.Policies(ctx, client.Selector{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(policies))
		for i, policy := range policies {
			names[i] = policy.Metadata.Name
		}
		return completions(names, prefix)
	}
}

// workload is whose policies --service, --gateway or --waypoint, and --namespace select.
type workload struct{ service, namespace, gateway, waypoint string }

// completeWorkloads completes a part of the workloads that the daemon knows: those
// of connected filters, and those that policies name.
func (a *app) completeWorkloads(part func(workload) string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		daemon, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := limitedCompletion(cmd)
		defer cancel()
		var values []string
		if filters, _, err := daemon.Filters(ctx); err == nil {
			for _, item := range filters.Items {
				values = append(values, part(workload{item.Service, item.Namespace, item.Gateway, item.Waypoint}))
			}
		}
		if policies, _, err := daemon.Policies(ctx, client.Selector{}); err == nil {
			for _, policy := range policies {
				selector := policy.Spec.Selector
				if value := part(workload{selector.Service, selector.Namespace, selector.Gateway, ""}); value != "*" {
					values = append(values, value)
				}
			}
		}
		return completions(values, prefix)
	}
}

// completeRevisions completes HEAD, branches and tags of the repository here.
func completeRevisions(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := limitedCompletion(cmd)
	defer cancel()
	refs, err := repo{}.git(ctx, "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags", "refs/remotes")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completions(append(strings.Fields(refs), "HEAD"), prefix)
}
