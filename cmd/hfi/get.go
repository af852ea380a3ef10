package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api/client"
	"github.com/boifi/hfi/schema"
)

func newGet(a *app) *cobra.Command {
	command := newGetPolicies(a)
	command.Use, command.Aliases = "get [NAME]", nil
	command.SuggestionsMinimumDistance = 2
	command.AddCommand(newGetPolicies(a), newGetFilters(a))
	return command
}

// newGetPolicies is "hfi get policies"; "hfi get" is the same with subcommands.
func newGetPolicies(a *app) *cobra.Command {
	var service, namespace, gateway, waypoint string
	command := &cobra.Command{
		Use:     "policies [NAME]",
		Aliases: []string{"policy"},
		Short:   "List the policies that the daemon serves, or show one",
		Long: `List the policies that the daemon serves, or show one and the file it came from.
--service and --namespace list those that apply to one workload, --gateway and
--namespace those that apply to one gateway, --waypoint and --namespace those
that apply in one waypoint of Istio's ambient mode, each to its own service.
"hfi get filters" lists the filters.`,
		Example: `  hfi get
  hfi get frontend-delay -o yaml
  hfi get policies --service frontend --namespace demo
  hfi get -o name
  hfi get frontend-delay -o jsonpath='{.spec.rules[0].fault.delay_ms}'
  hfi get filters`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeNames(1),
		Annotations:       map[string]string{withNames: "true"},
		RunE: func(cmd *cobra.Command, args []string) error {
			daemon, err := a.client()
			if err != nil {
				return err
			}
			var selector client.Selector
			byService, byGateway, byWaypoint, inNamespace := cmd.Flags().Changed("service"), cmd.Flags().Changed("gateway"), cmd.Flags().Changed("waypoint"), cmd.Flags().Changed("namespace")
			switch {
			case byService && byGateway, byService && byWaypoint, byGateway && byWaypoint:
				return usageError("--service, --gateway and --waypoint exclude each other")
			case byGateway && !inNamespace:
				return usageError("--gateway and --namespace must be given together: they select one gateway")
			case byWaypoint && !inNamespace:
				return usageError("--waypoint and --namespace must be given together: they select one waypoint")
			case !byGateway && !byWaypoint && byService != inNamespace:
				return usageError("--service and --namespace must be given together: they select one workload")
			case byGateway:
				selector = client.Selector{Gateway: &gateway, Namespace: &namespace}
			case byWaypoint:
				selector = client.Selector{Waypoint: &waypoint, Namespace: &namespace}
			case byService:
				selector = client.Selector{Service: &service, Namespace: &namespace}
			}
			if len(args) == 0 {
				return a.getAll(cmd.Context(), daemon, selector)
			}
			if selector != (client.Selector{}) {
				return usageError("--service, --gateway, --waypoint and --namespace cannot be combined with NAME")
			}
			return a.getOne(cmd, daemon, args[0])
		},
	}
	command.Flags().StringVar(&service, "service", "", "`name` of the workload whose policies to list (default: all policies)")
	command.Flags().StringVar(&gateway, "gateway", "", "`name` of the gateway whose policies to list (default: all policies)")
	command.Flags().StringVar(&waypoint, "waypoint", "", "`name` of the waypoint whose policies to list (default: all policies)")
	command.Flags().StringVar(&namespace, "namespace", "", "`namespace` of the workload, gateway or waypoint whose policies to list (default: all policies)")
	must(command.RegisterFlagCompletionFunc("service", a.completeWorkloads(func(w workload) string { return w.service })))
	must(command.RegisterFlagCompletionFunc("gateway", a.completeWorkloads(func(w workload) string { return w.gateway })))
	must(command.RegisterFlagCompletionFunc("waypoint", a.completeWorkloads(func(w workload) string { return w.waypoint })))
	must(command.RegisterFlagCompletionFunc("namespace", a.completeWorkloads(func(w workload) string { return w.namespace })))
	return command
}

func (a *app) getAll(ctx context.Context, daemon *client.Client, selector client.Selector) error {
	policies, text, err := daemon.Policies(ctx, selector)
	if err != nil {
		return fmt.Errorf("getting policies: %w", err)
	}
	names := make([]string, len(policies))
	for i, policy := range policies {
		names[i] = policy.Metadata.Name
	}
	if done, err := a.names(names); done {
		return err
	}
	if done, err := a.raw(text); done {
		return err
	}
	if len(policies) == 0 {
		_, err := fmt.Fprintln(a.stdout, "No policies.")
		return err
	}
	var rows [][]string
	for _, policy := range policies {
		selector := policy.Spec.Selector
		rows = append(rows, []string{policy.Metadata.Name, selector.Namespace, serviceOrGateway(selector.Service, selector.Gateway), state(policy, a.now()), faults(policy)})
	}
	return a.table([]string{"NAME", "NAMESPACE", "SERVICE", "STATE", "FAULTS"}, rows)
}

func (a *app) getOne(cmd *cobra.Command, daemon *client.Client, name string) error {
	policy, origin, text, err := daemon.Policy(cmd.Context(), name)
	if client.NotFound(err) {
		return &exitError{exitNotFound, fmt.Errorf("policy %q is not served%s",
			name, or(suggestion(cmd, name), ": hfi get lists the policies that are"))}
	}
	if err != nil {
		return fmt.Errorf("getting policy %q: %w", name, err)
	}
	if done, err := a.names([]string{policy.Metadata.Name}); done {
		return err
	}
	if done, err := a.raw(text); done {
		return err
	}
	lines := [][2]string{
		{"Name", policy.Metadata.Name},
		{"Service", serviceOrGateway(policy.Spec.Selector.Service, policy.Spec.Selector.Gateway)},
		{"Namespace", policy.Spec.Selector.Namespace},
		{"State", state(policy, a.now())},
	}
	if policy.Outbound() {
		lines = append(lines, [2]string{"Direction", string(policy.Spec.Direction)})
	}
	if at := policy.Spec.ExpiresAt; at != nil {
		lines = append(lines, [2]string{"Expires", at.Format(time.RFC3339)})
	}
	if origin.File != "" {
		lines = append(lines, [2]string{"From", fmt.Sprintf("%s:%d in %s", origin.File, origin.Line, short(origin.Commit))})
	}
	for i, rule := range policy.Spec.Rules {
		lines = append(lines, [2]string{fmt.Sprintf("Rule %d", i+1), fault(rule.Fault) + " of " + matching(policy, rule.Match)})
	}
	return a.facts(lines)
}

// serviceOrGateway names what a policy selects in a namespace.
func serviceOrGateway(service, gateway string) string {
	if gateway != "" {
		return "gateway/" + gateway
	}
	return service
}

// facts prints names and values, one pair a line.
func (a *app) facts(lines [][2]string) error {
	for _, line := range lines {
		if _, err := fmt.Fprintf(a.stdout, "%-11s %s\n", line[0], clean(line[1])); err != nil {
			return err
		}
	}
	return nil
}

// state is active, expired or dry run.
func state(policy *schema.Policy, now time.Time) string {
	switch {
	case policy.Expired(now):
		return "expired"
	case policy.Spec.DryRun:
		return "dry run"
	}
	return "active"
}

// faults summarizes a policy's rules, and what each matches unless it is all requests.
func faults(policy *schema.Policy) string {
	var all []string
	for _, rule := range policy.Spec.Rules {
		text := fault(rule.Fault)
		if rule.Match != nil || policy.Outbound() {
			text += " of " + matching(policy, rule.Match)
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func fault(f schema.Fault) string {
	var parts []string
	if f.DelayMS > 0 {
		parts = append(parts, fmt.Sprintf("delay %dms", f.DelayMS))
	}
	if f.Abort != nil {
		if f.Abort.GRPCStatus != nil {
			parts = append(parts, fmt.Sprintf("abort grpc %d", *f.Abort.GRPCStatus))
		} else {
			parts = append(parts, fmt.Sprintf("abort %d", f.Abort.Status))
		}
	}
	share, err := f.Percentage.MarshalJSON()
	must(err)
	return fmt.Sprintf("%s for %s%%", strings.Join(parts, " and "), share)
}

// matching describes the requests that a rule of a policy matches.
func matching(policy *schema.Policy, match *schema.Match) string {
	requests := "requests"
	if policy.Outbound() {
		requests = "outbound requests"
	}
	if match == nil {
		return "all " + requests
	}
	if match.To != nil {
		requests += " to " + destination(match.To)
	}
	var parts []string
	if len(match.Methods) > 0 {
		parts = append(parts, strings.Join(match.Methods, " or "))
	}
	if match.Path != nil {
		parts = append(parts, "path "+comparison(*match.Path))
	}
	for _, header := range match.Headers {
		if header.Present != nil {
			parts = append(parts, fmt.Sprintf("header %s present: %t", header.Name, *header.Present))
		} else {
			parts = append(parts, "header "+header.Name+" "+comparison(header.StringMatch))
		}
	}
	if len(parts) == 0 {
		return requests
	}
	return requests + " with " + strings.Join(parts, ", ")
}

func destination(to *schema.Destination) string {
	var parts []string
	if to.Host != "" {
		parts = append(parts, "host "+to.Host)
	}
	if to.Service != "" {
		parts = append(parts, "service "+to.Service)
	}
	if to.Namespace != "" {
		parts = append(parts, "namespace "+to.Namespace)
	}
	return strings.Join(parts, " in ")
}

func comparison(match schema.StringMatch) string {
	switch {
	case match.Exact != nil:
		return fmt.Sprintf("= %q", *match.Exact)
	case match.Prefix != nil:
		return fmt.Sprintf("starting with %q", *match.Prefix)
	case match.Regex != nil:
		return fmt.Sprintf("matching %q", *match.Regex)
	}
	return "of any value"
}
