package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api"
)

func newGetFilters(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "filters",
		Aliases: []string{"filter"},
		Short:   "List the connected filters and whether they enforce the current policies",
		Long: `List the filters that ask the daemon or its replicas for policies, those with a problem
first. A filter is Current if all VMs of its sidecar enforce the current policies,
Behind if one does not, Unable if one says that it cannot, and Silent if one has
stopped asking and so enforces nothing. It is Unknown, and does not count, if the
Kubernetes cluster has no such pod. The column WHY says what is wrong.`,
		Example: `  hfi get filters
  hfi get filters -o wide
  hfi get filters -o jsonpath='{range .items[*]}{.pod}{"\n"}{end}'`,
		Args:        cobra.NoArgs,
		Annotations: map[string]string{withNames: "true"},
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemon, err := a.client()
			if err != nil {
				return err
			}
			filters, text, err := daemon.Filters(cmd.Context())
			if err != nil {
				return fmt.Errorf("getting the filters: %w", err)
			}
			names := make([]string, len(filters.Items))
			for i, item := range filters.Items {
				names[i] = join("/", item.Namespace, or(item.Pod, item.Node))
			}
			if done, err := a.names(names); done {
				return err
			}
			if done, err := a.raw(text); done {
				return err
			}
			return a.printFilters(filters)
		},
	}
}

func (a *app) printFilters(filters *api.FiltersStatus) error {
	if reason := incomplete(*filters); reason != "" {
		fmt.Fprintln(a.stderr, clean(a.paintErr(yellow, "The list may be incomplete: "+reason)))
	}
	if len(filters.Items) == 0 {
		_, err := fmt.Fprintln(a.stdout, "No filters.")
		return err
	}
	var rows [][]string
	wide := a.output.String() == wideFormat
	for _, item := range filters.Items {
		row := []string{item.Namespace, filterOwner(item), or(item.Pod, item.Node), string(item.State), fmt.Sprintf("%d/%d", item.VMs.Current, item.VMs.Total), ago(a.now(), &item.Since), item.Envoy}
		if wide {
			row = append(row, strings.Join(item.Directions, ","), item.Node, digest(item), strings.Join(item.Replicas, ","))
		}
		rows = append(rows, append(row, item.Message))
	}
	heading := []string{"NAMESPACE", "SERVICE", "POD", "STATE", "VMS", "SINCE", "ENVOY"}
	if wide {
		heading = append(heading, "DIRECTIONS", "NODE", "IN FORCE", "REPLICAS")
	}
	if err := a.table(append(heading, "WHY"), rows); err != nil {
		return err
	}
	if rest := filters.Connected + filters.Unknown - len(filters.Items); rest > 0 {
		_, err := fmt.Fprintf(a.stdout, "… and %d more\n", rest)
		return err
	}
	return nil
}

// digest abbreviates the digest of the policies in force.
func digest(item api.FilterStatus) string {
	version, hash, found := strings.Cut(item.Digest, ":")
	if !found {
		return item.Digest
	}
	return version + ":" + short(hash)
}

// incomplete returns why some filters may be unknown, or an empty string.
func incomplete(filters api.FiltersStatus) string {
	if filters.Complete {
		return ""
	}
	var reasons []string
	for _, replica := range filters.Replicas {
		if replica.Error != "" {
			reasons = append(reasons, fmt.Sprintf("replica %s: %s", replica.ID, replica.Error))
		}
	}
	reasons = append(reasons, filters.Message)
	if reason := join("; ", reasons...); reason != "" {
		return reason
	}
	return "the daemon does not say why"
}

// countFilters summarizes the filters in one line.
func countFilters(filters api.FiltersStatus) string {
	text := "none connected"
	if filters.Connected > 0 {
		text = fmt.Sprintf("%d of %d current", filters.Current, filters.Connected)
	}
	for _, other := range []struct {
		count int
		word  string
	}{{filters.Behind, "behind"}, {filters.Unable, "unable to inject faults"}, {filters.Silent, "silent: not enforcing"}, {filters.Unknown, "of pods that the cluster does not have"}} {
		if other.count > 0 {
			text += fmt.Sprintf(", %d %s", other.count, other.word)
		}
	}
	if reason := incomplete(filters); reason != "" {
		text += "; there may be more: " + reason
	}
	return text
}

func filtersColour(filters api.FiltersStatus) colour {
	switch {
	case filters.Silent > 0 || filters.Unable > 0:
		return red
	case filters.Behind > 0 || !filters.Complete || filters.Connected == 0:
		return yellow
	}
	return green
}

// filterOwner names the service, gateway or waypoint of a filter.
func filterOwner(item api.FilterStatus) string {
	if item.Waypoint != "" {
		return "waypoint/" + item.Waypoint
	}
	return serviceOrGateway(item.Service, item.Gateway)
}

// filterName names the pod or node of a filter.
func filterName(item api.FilterStatus) string {
	switch {
	case item.Pod != "":
		return "pod " + join("/", item.Namespace, item.Pod)
	case item.Node != "":
		return "node " + item.Node
	}
	return "the filter of " + join("/", item.Namespace, strconv.Quote(filterOwner(item)))
}

// linesOf returns a line for each filter in one of the states, with its message.
func linesOf(filters api.FiltersStatus, states ...api.FilterState) []string {
	var lines []string
	for _, item := range filters.Items {
		for _, state := range states {
			if item.State == state {
				lines = append(lines, join(": ", filterName(item), item.Message))
			}
		}
	}
	return lines
}

func filterLines(filters api.FiltersStatus) []string {
	return linesOf(filters, api.FilterSilent, api.FilterUnable, api.FilterBehind)
}

// maxNamed bounds the filters named in one line; the others are counted.
const maxNamed = 3

// some joins the first lines, and counts the others.
func some(lines []string, total int) string {
	text := strings.Join(lines[:min(len(lines), maxNamed)], "; ")
	if rest := total - min(len(lines), maxNamed); rest > 0 {
		text = join("; ", text, fmt.Sprintf("and %d more", rest))
	}
	return text
}

// filters reports whether every filter enforces what is served. The daemon compares
// them with the state that it serves, which contains the commit by now.
func (w *waiter) filters(_ context.Context, status *api.Status) (bool, string, error) {
	filters := status.Filters
	if filters.Silent+filters.Unable > 0 && filters.Complete {
		lines := linesOf(filters, api.FilterSilent, api.FilterUnable)
		for i, line := range lines {
			lines[i] = strings.Replace(line, ": ", " is not enforcing: ", 1)
		}
		return false, "", &exitError{exitSilent, fmt.Errorf("%s is served, but %s", short(w.commit), some(lines, filters.Silent+filters.Unable))}
	}
	if reason := incomplete(filters); reason != "" {
		return false, "not all filters may be known: " + reason, nil
	}
	if filters.Current < filters.Connected {
		return false, fmt.Sprintf("%d of %s current: %s", filters.Current, plural(filters.Connected, "filter is", "filters are"),
			some(linesOf(filters, api.FilterBehind), filters.Behind)), nil
	}
	return true, "", nil
}

// reached summarizes the filters once all of them are current.
func reached(filters api.FiltersStatus) string {
	if filters.Connected == 0 {
		return "no filter is connected"
	}
	return fmt.Sprintf("%s current", plural(filters.Current, "filter is", "filters are"))
}

// deliveries reports whether every pod that policies target has a filter, where the
// daemon delivers it. Pods that no policy targets run none. A pod that has none for
// podGrace ends the wait: it may be one that cannot be scheduled or crashes again and again.
func (w *waiter) deliveries(_ context.Context, status *api.Status) (bool, string, error) {
	view := status.Kubernetes.KubernetesView
	if view == nil || len(view.KeptNamespaces) == 0 {
		return true, "", nil
	}
	if view.Error != "" {
		return false, "the daemon may not know all pods: " + view.Error, nil
	}
	if view.AwaitedPodsCount == 0 {
		return true, "", nil
	}
	var lines, overdue []string
	before := w.awaitedSince
	w.awaitedSince = map[string]time.Time{}
	for _, pod := range view.AwaitedPods {
		name := join("/", pod.Namespace, pod.Pod)
		since, known := before[name]
		if !known {
			since = time.Now()
		}
		w.awaitedSince[name] = since
		lines = append(lines, podLine(pod))
		if time.Since(since) >= podGrace {
			overdue = append(overdue, podLine(pod))
		}
	}
	if len(overdue) > 0 {
		return false, "", &exitError{exitSilent, fmt.Errorf("%s is served, but after %s %s still without a filter: %s", short(w.commit), podGrace,
			plural(len(overdue), "targeted pod is", "targeted pods are"), some(overdue, len(overdue)))}
	}
	return false, fmt.Sprintf("%s without a filter yet: %s",
		plural(view.AwaitedPodsCount, "targeted pod is", "targeted pods are"), some(lines, view.AwaitedPodsCount)), nil
}

func podLine(pod api.PodProblem) string {
	return join(": ", "pod "+join("/", pod.Namespace, pod.Pod), pod.Reason)
}

// withoutFilter returns a line for each pod that a policy targets, that has a sidecar and no
// working filter, and to which the daemon does not deliver it. Of the pods that the status
// counts and does not name, total has those of the policy with the most.
func withoutFilter(view *api.KubernetesView) (lines []string, total int) {
	if view == nil {
		return nil, 0
	}
	seen := map[string]bool{}
	more := 0
	for _, policy := range view.Policies {
		for _, pod := range policy.WithoutFilter {
			name := join("/", pod.Namespace, pod.Pod)
			if !seen[name] && !slices.Contains(view.KeptNamespaces, pod.Namespace) {
				lines = append(lines, podLine(pod))
			}
			seen[name] = true
		}
		more = max(more, policy.WithoutFilterCount-len(policy.WithoutFilter))
	}
	if len(lines) == 0 {
		return nil, 0
	}
	return lines, len(lines) + more
}
