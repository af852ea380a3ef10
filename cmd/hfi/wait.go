package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/api/client"
)

// The first and the longest pause between two requests of wait.
const (
	waitPause    = 100 * time.Millisecond
	maxWaitPause = time.Second
	// firstContact bounds the wait for a daemon that has not answered yet, as it
	// may be starting, and lostContact the wait for one that has, as it may be
	// restarting.
	firstContact = 10 * time.Second
	lostContact  = 15 * time.Second
	// enoughReads is after how many reads of the branch one has certainly begun
	// after the wait did: the first may have been under way, and the replicas'
	// statuses differ in age.
	enoughReads = 3
	// stalledGrace is how long an error that requires manual action, or the lack of the
	// commit on the branch, must hold: the daemon reads the branch in that time,
	// and the push may have resolved it or may not have reached a mirror.
	stalledGrace = 5 * time.Second
	// unknownGrace is stalledGrace where git here cannot say whether the branch has
	// the commit, and a mirror that lags behind the push is as likely.
	unknownGrace = 20 * time.Second
	// podGrace is how long a targeted pod may take until it has the filter, counted
	// from when the wait first finds it without one: a sidecar loads it in seconds.
	podGrace = time.Minute
)

func newWait(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "wait COMMIT",
		Short: "Wait until a commit is served and every filter has it",
		Long: `Wait until git and etcd agree on COMMIT, or on a later commit that contains it, and
every connected filter enforces what is served. On Kubernetes it also waits for the
filters of the pods that policies target, in the namespaces where the daemon delivers
the filter (--kube-namespaces), and for no others. COMMIT is a hash, abbreviated
or not, or in a clone anything that git understands.

It fails at once with exit code 7 and the reason if the commit is invalid, refused or
not verified, and within seconds if the branch does not have it, or if the daemon
cannot read the branch or the trusted keys until somebody acts; within seconds with 8
if no daemon answers; with 9 and the name of the pod if a filter has stopped asking
for policies and does not enforce it, or if a pod has no filter after a minute, such
as one that cannot be scheduled; and with 4 after --timeout.`,
		Example: `  git push && hfi wait HEAD
  hfi wait 1a2b3c4d --timeout 30s --server http://hfi-control-plane:8080`,
		Args:              exactly(1, "COMMIT"),
		ValidArgsFunction: completeRevisions,
		RunE: func(cmd *cobra.Command, args []string) error {
			daemon, err := a.client()
			if err != nil {
				return err
			}
			commit, err := resolveCommit(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			w := &waiter{app: a, daemon: daemon, commit: commit, contains: repo{}.contains}
			status, text, err := w.wait(cmd.Context())
			if err != nil {
				return err
			}
			if done, err := a.raw(text); done {
				return err
			}
			return a.printServed(commit, status)
		},
	}
}

func (a *app) printServed(commit string, status *api.Status) error {
	applied := status.Sync.LastAppliedRevision
	text := fmt.Sprintf("%s is served", short(commit))
	if !strings.HasPrefix(applied.Commit, commit) {
		text = fmt.Sprintf("%s is served, as part of %s", short(commit), short(applied.Commit))
	}
	if _, err := fmt.Fprintf(a.stdout, "%s: %s\n%s\n", a.paint(green, clean(text)), plural(applied.Count, "policy", "policies"), clean(reached(status.Filters))); err != nil {
		return err
	}
	if lines, total := withoutFilter(status.Kubernetes.KubernetesView); total > 0 {
		_, err := fmt.Fprintf(a.stdout, "%s without a filter: %s\n", a.paint(yellow, plural(total, "targeted pod is", "targeted pods are")), clean(some(lines, total)))
		return err
	}
	return nil
}

// waiter waits for a commit.
type waiter struct {
	*app
	daemon *client.Client
	// commit is a full hash or a prefix of one.
	commit string
	// contains reports whether a commit is in a tip's history; known is false if that cannot be determined.
	contains func(ctx context.Context, tip, commit string) (yes, known bool)
	// pushedTo is the branch that this command has pushed the commit to, if any.
	pushedTo string

	// first is the applied commit in the first status.
	first *string
	// answered is when the daemon last answered, at first when the wait began, and
	// triggered when it accepted to read the branch.
	answered, triggered time.Time
	// warned that the daemon does not accept a trigger.
	warned bool
	// seen is when the daemon last read the branch, or failed to, by its clock, and
	// reads is how often it has done so during the wait.
	seen  time.Time
	reads int
	// awaitedSince is when each pod was first found without a filter, by NAMESPACE/NAME.
	awaitedSince map[string]time.Time
	// ancestry caches the known results of contains, each of which costs a git process.
	ancestry map[[2]string]bool
}

// agreements are the conditions for a commit to count as served. Each returns
// whether it holds and, if not, what is pending; an error ends the wait.
func (w *waiter) agreements() []func(context.Context, *api.Status) (bool, string, error) {
	return []func(context.Context, *api.Status) (bool, string, error){w.gitAndEtcd, w.filters, w.deliveries}
}

// wait returns the first status in which all agreements hold.
func (w *waiter) wait(ctx context.Context) (*api.Status, []byte, error) {
	w.ancestry = map[[2]string]bool{}
	note := "no answer yet"
	bar := w.progress(ctx, "Waiting for "+short(w.commit))
	defer bar.Stop()
	w.answered = time.Now()
	w.trigger(ctx)
	between := waitPause
	for {
		status, text, err := w.daemon.Status(ctx)
		switch {
		case err == nil:
			w.noteReads(ctx, status)
			done, awaited, err := w.judge(ctx, status)
			if done || err != nil && ctx.Err() == nil {
				return status, text, err
			}
			if err == nil {
				note = awaited
			}
		case ctx.Err() == nil && (!transient(err) || w.lost()):
			return nil, nil, fmt.Errorf("waiting for %s: %w", short(w.commit), err)
		case ctx.Err() == nil:
			if note = err.Error(); w.first != nil && !unreachable(err) || isDaemons(err) {
				w.answered = time.Now()
			}
		}
		bar.Note(fmt.Sprintf("Waiting for %s: %s", short(w.commit), note))
		if !pause(ctx, between) {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, nil, &exitError{exitTimeout, fmt.Errorf("timed out waiting for %s: %s", short(w.commit), note)}
			}
			return nil, nil, ctx.Err()
		}
		between = min(between*3/2, maxWaitPause)
	}
}

// trigger makes the daemon read the branch now. If the request fails, the daemon does so at its interval.
func (w *waiter) trigger(ctx context.Context) {
	err := w.daemon.Reconcile(ctx)
	var answer *client.AnswerError
	switch {
	case err == nil && w.triggered.IsZero():
		w.triggered = time.Now()
	case errors.As(err, &answer) && (answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden) && !w.warned:
		w.warned = true
		w.warn("the daemon reads the branch only at its interval, because it does not accept this trigger; if it has a --webhook-secret-file, give hfi the same: %v", err)
	}
}

// mayBeOld reports whether an error of the source, or the branch's head, may be
// from before the wait, or from its beginning, for which grace is given.
func (w *waiter) mayBeOld(grace time.Duration) bool {
	if w.triggered.IsZero() {
		return w.reads < enoughReads
	}
	return time.Since(w.triggered) < grace
}

// noteReads counts the daemon's reads of the branch, and asks for another until there are enough.
func (w *waiter) noteReads(ctx context.Context, status *api.Status) {
	w.answered = time.Now()
	seen := cmp.Or(status.Source.LastTriedAt, status.Source.LastSeenAt)
	if seen == nil || !seen.After(w.seen) {
		return
	}
	if w.first != nil && w.reads < enoughReads {
		w.reads++
		w.trigger(ctx)
	}
	w.seen = *seen
}

// lost reports whether the daemon has not answered for too long.
func (w *waiter) lost() bool {
	limit := firstContact
	if w.first != nil {
		limit = lostContact
	}
	return time.Since(w.answered) > limit
}

// transient reports whether a later request may succeed.
func transient(err error) bool {
	var answer *client.AnswerError
	return unreachable(err) || errors.As(err, &answer) && answer.Status >= 500
}

// isDaemons reports whether an error is a daemon's own: it has a code.
func isDaemons(err error) bool {
	var answer *client.AnswerError
	return errors.As(err, &answer) && answer.Code != ""
}

// unreachable reports whether no daemon answered.
func unreachable(err error) bool {
	var unreachable *client.UnreachableError
	return errors.As(err, &unreachable)
}

func (w *waiter) judge(ctx context.Context, status *api.Status) (done bool, note string, err error) {
	for _, agreed := range w.agreements() {
		if done, note, err := agreed(ctx, status); !done {
			return false, note, err
		}
	}
	return true, "", nil
}

// describeSync summarizes the sync status in one line.
func describeSync(status *api.Status) string {
	applied := "nothing"
	if revision := status.Sync.LastAppliedRevision; revision != nil {
		applied = short(revision.Commit)
	}
	text := fmt.Sprintf("%s, serving %s", status.Sync.Status, applied)
	if failure := status.Source.Error; failure != nil {
		return join(": ", text, failure.Message)
	}
	return join(": ", text, status.Sync.Message)
}
