package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/api/client"
	"github.com/boifi/hfi/schema"
)

func newStatus(a *app) *cobra.Command {
	var strict, watch bool
	command := &cobra.Command{
		Use:   "status",
		Short: "Show whether git, etcd and the filters agree, and any errors",
		Long: `Show whether git, etcd and the filters agree, what is served, and any errors.
The exit code is 0 whenever the daemon answers; with --exit-code it is 5 unless
git and etcd agree and there is no drift.`,
		Example: `  hfi status
  hfi status --watch
  hfi status -o jsonpath='{.sync.status}'
  hfi status --exit-code -o json > status.json || echo "not in sync"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			daemon, err := a.client()
			if err != nil {
				return err
			}
			if watch && strict {
				return usageError("--watch and --exit-code cannot be combined")
			}
			if watch {
				return a.watchStatus(cmd.Context(), daemon)
			}
			status, text, err := daemon.Status(cmd.Context())
			if err != nil {
				return fmt.Errorf("getting the status: %w", err)
			}
			if err := a.showStatus(status, text); err != nil || !strict {
				return err
			}
			if status.Sync.Status != api.Synced || status.Drift.Status != api.DriftNone {
				return &exitError{exitDiffers, fmt.Errorf("sync is %s, drift is %s", status.Sync.Status, status.Drift.Status)}
			}
			return nil
		},
	}
	command.Flags().BoolVar(&strict, "exit-code", false, "exit with 5 if not in sync or drifted")
	command.Flags().BoolVarP(&watch, "watch", "w", false, "show the status again whenever it changes, until interrupted or --timeout")
	return command
}

// watchPause is the time between two requests of status --watch.
const watchPause = time.Second

// watchStatus shows the status whenever something other than a time changes in it. A
// terminal is cleared before; elsewhere the statuses follow one another.
func (a *app) watchStatus(ctx context.Context, daemon *client.Client) error {
	var shown *api.Status
	failed := ""
	for {
		status, text, err := daemon.Status(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil && shown == nil:
			return fmt.Errorf("getting the status: %w", err)
		case err != nil:
			if err.Error() != failed {
				a.warn("getting the status: %v", err)
			}
			failed = err.Error()
		case isTerminal(a.stdout) && a.output.forPeople():
			// The ages in it change all the time.
			fmt.Fprint(a.stdout, "\x1b[H\x1b[2J")
			fallthrough
		case shown == nil || failed != "" || !sameStatus(*status, *shown):
			if shown != nil && a.output.String() == yamlFormat {
				fmt.Fprintln(a.stdout, "---")
			} else if shown != nil && a.output.forPeople() {
				fmt.Fprintln(a.stdout)
			}
			failed = ""
			if err := a.showStatus(status, text); err != nil {
				return err
			}
			shown = status
		}
		if !pause(ctx, watchPause) {
			return ctx.Err()
		}
	}
}

// sameStatus compares statuses without the times that move whenever git and etcd are
// read, and without the messages of filters, which have ages, and their times, which
// are reckoned from ages.
func sameStatus(a, b api.Status) bool {
	for _, status := range []*api.Status{&a, &b} {
		status.Source.LastSeenAt, status.Source.LastTriedAt, status.Etcd.LastSeenAt, status.Sync.LastSuccessAt = nil, nil, nil, nil
		status.Filters.Message = ""
		status.Filters.Items = slices.Clone(status.Filters.Items)
		for i := range status.Filters.Items {
			status.Filters.Items[i].Message, status.Filters.Items[i].Since = "", time.Time{}
		}
	}
	return reflect.DeepEqual(a, b)
}

// showStatus prints a status in the output format.
func (a *app) showStatus(status *api.Status, text []byte) error {
	if done, err := a.raw(text); done {
		return err
	}
	return a.printStatus(status)
}

// maxShown bounds the drift items and problems of a table; the others are counted.
const maxShown = 20

func (a *app) printStatus(status *api.Status) error {
	source, sync := status.Source, status.Sync
	once := &onceOnly{}
	lines := [][2]string{
		{"Sync", join(": ", string(sync.Status), once.text(withoutProblem(sync.Message, source.Errors)))},
		{"Serving", a.serving(status)},
	}
	if tried := source.LastAttemptedRevision; tried != nil && (sync.LastAppliedRevision == nil || tried.Commit != sync.LastAppliedRevision.Commit) {
		lines = append(lines, [2]string{"Attempted", fmt.Sprintf("%s %s", short(tried.Commit), tried.Subject)})
	}
	lines = append(lines, [2]string{"Git", a.git(source, once)}, [2]string{"Etcd", a.etcd(status.Etcd)}, [2]string{"Drift", drift(status.Drift)})
	if heal := status.Drift.Heal; heal != nil {
		lines = append(lines, [2]string{"Repairs", join(": ", fmt.Sprint(heal.Repairs), heal.Message)})
	}
	lines = append(lines, [2]string{"Filters", countFilters(status.Filters)})
	for _, condition := range status.Conditions {
		lines = append(lines, [2]string{string(condition.Type), join(": ", condition.Status+" "+condition.Reason,
			once.text(withoutProblem(condition.Message, source.Errors)))})
	}
	for _, line := range lines {
		text := clean(line[1])
		if c, ok := statusColour(line[0], status); ok {
			text = a.paint(c, text)
		}
		if _, err := fmt.Fprintf(a.stdout, "%-11s %s\n", clean(line[0]), text); err != nil {
			return err
		}
	}
	wrong := filterLines(status.Filters)
	a.details("Filters with problems", wrong, status.Filters.Behind+status.Filters.Unable+status.Filters.Silent)
	a.details("Drift items", driftLines(status.Drift), status.Drift.Total)
	a.details("Errors", problemLines(source.Errors), source.ErrorsTotal)
	a.details("Warnings", problemLines(source.Warnings), source.WarningsTotal)
	return nil
}

// onceOnly leaves out what a status says again: its fields and conditions tell of one failure.
type onceOnly struct{ shown []string }

// text is a text, or empty if one that was shown before contains it.
func (o *onceOnly) text(text string) string {
	if slices.ContainsFunc(o.shown, func(before string) bool { return strings.Contains(before, text) }) {
		return ""
	}
	o.shown = append(o.shown, text)
	return text
}

// withoutProblem is a message without the only problem of a commit, which has a place of its own.
func withoutProblem(message string, problems []schema.Problem) string {
	if len(problems) != 1 {
		return message
	}
	return strings.TrimSuffix(message, ": "+problems[0].String())
}

// statusColour is green if all is well, red if manual action is required, else yellow.
func statusColour(line string, status *api.Status) (colour, bool) {
	switch line {
	case "Sync":
		return map[api.SyncState]colour{api.Synced: green, api.OutOfSync: red}[status.Sync.Status].or(yellow), true
	case "Drift":
		return map[api.DriftState]colour{api.DriftNone: green, api.DriftDetected: red}[status.Drift.Status].or(yellow), true
	case "Filters":
		return filtersColour(status.Filters), true
	}
	return "", false
}

func (c colour) or(other colour) colour {
	if c == "" {
		return other
	}
	return c
}

func (a *app) serving(status *api.Status) string {
	applied := status.Sync.LastAppliedRevision
	if applied == nil {
		return "nothing yet"
	}
	text := fmt.Sprintf("%s of %s, published %s", plural(applied.Count, "policy", "policies"), short(applied.Commit), ago(a.now(), &applied.At))
	if from := status.Sync.ServedFrom; from != "" && from != "etcd" {
		text += ", from " + from
	}
	for _, entry := range status.History {
		if entry.Commit != applied.Commit || entry.Outcome != api.Applied {
			continue
		}
		text += fmt.Sprintf(": %s (%s)", entry.Subject, entry.Author)
		if entry.Restores != "" {
			text += ", restores " + short(entry.Restores)
		}
		if signature := entry.Signature; signature != nil && signature.Status == api.SignatureVerified {
			text += ", signed by " + signature.Signer
		}
		break
	}
	return text
}

func (a *app) git(source api.SourceStatus, once *onceOnly) string {
	text := fmt.Sprintf("%s of %s, in %s, seen %s", source.Branch, source.URL, source.Path, ago(a.now(), source.LastSeenAt))
	if source.Error != nil {
		return join(": ", text, source.Error.Reason, once.text(source.Error.Message))
	}
	return text
}

func (a *app) etcd(etcd api.EtcdStatus) string {
	word := "healthy"
	if !etcd.Healthy {
		word = join(": ", "not healthy", etcd.Error)
	}
	return fmt.Sprintf("%s, %s (%s), seen %s", etcd.Mode, word, strings.Join(etcd.Endpoints, ", "), ago(a.now(), etcd.LastSeenAt))
}

func drift(d api.Drift) string {
	if d.Status != api.DriftDetected {
		return string(d.Status)
	}
	return fmt.Sprintf("%s: %s (mode %s)", d.Status, plural(max(d.Total, len(d.Items)), "key", "keys"), d.Mode)
}

func driftLines(d api.Drift) []string {
	var lines []string
	for _, item := range d.Items {
		lines = append(lines, fmt.Sprintf("%-8s %s", item.Kind, item.Key))
	}
	return lines
}

func problemLines(problems []schema.Problem) []string {
	var lines []string
	for _, problem := range problems {
		lines = append(lines, problem.String())
	}
	return lines
}

// details prints a list under a heading, unless it is empty.
func (a *app) details(heading string, lines []string, total int) {
	if len(lines) == 0 {
		return
	}
	fmt.Fprintf(a.stdout, "\n%s\n", a.paint(bold, heading))
	shown := lines[:min(len(lines), maxShown)]
	for _, line := range shown {
		fmt.Fprintf(a.stdout, "  %s\n", clean(line))
	}
	rest := max(total, len(lines)) - len(shown)
	switch {
	case rest > 0 && total > len(lines):
		fmt.Fprintf(a.stdout, "  … and %d more (-o json has the first %d)\n", rest, len(lines))
	case rest > 0:
		fmt.Fprintf(a.stdout, "  … and %d more (-o json has them)\n", rest)
	}
}

// join joins the parts that are not empty.
func join(separator string, parts ...string) string {
	var some []string
	for _, part := range parts {
		if part != "" {
			some = append(some, part)
		}
	}
	return strings.Join(some, separator)
}
