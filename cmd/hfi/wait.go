package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
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

It fails at once with exit code 7 and the reason if the commit is invalid or refused,
and within seconds if the branch does not have it or if the daemon cannot read the
branch until somebody acts; within seconds with 8 if no daemon answers; with 9 and the name of the pod if a filter has
stopped asking for policies and does not enforce it, or if a pod has no filter after
a minute, such as one that cannot be scheduled; and with 4 after --timeout.`,
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

var hexadecimal = regexp.MustCompile(`^[0-9a-f]{7,64}$`)

// resolveCommit returns the full hash if the repository here has the commit, else the hash as given.
func resolveCommit(ctx context.Context, revision string) (string, error) {
	hash, err := repo{}.commitHash(ctx, revision)
	if err == nil {
		return hash, nil
	}
	if lower := strings.ToLower(revision); hexadecimal.MatchString(lower) {
		return lower, nil
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	return "", usageError("%q is neither a commit in the current repository nor a commit hash of 7 or more digits", revision)
}

func (a *app) printServed(commit string, status *api.Status) error {
	applied := status.Sync.LastAppliedRevision
	text := fmt.Sprintf("%s is served", short(commit))
	if !strings.HasPrefix(applied.Commit, commit) {
		text = fmt.Sprintf("%s is served, as part of %s", short(commit), short(applied.Commit))
	}
	if _, err := fmt.Fprintf(a.stdout, "%s: %s\n%s\n", a.paint(green, text), plural(applied.Count, "policy", "policies"), reached(status.Filters)); err != nil {
		return err
	}
	if lines, total := withoutFilter(status.Kubernetes.KubernetesView); total > 0 {
		_, err := fmt.Fprintf(a.stdout, "%s without a filter: %s\n", a.paint(yellow, plural(total, "targeted pod is", "targeted pods are")), some(lines, total))
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

func (w *waiter) gitAndEtcd(ctx context.Context, status *api.Status) (bool, string, error) {
	applied := ""
	if revision := status.Sync.LastAppliedRevision; revision != nil {
		applied = revision.Commit
	}
	if w.first == nil {
		w.first = &applied
	}
	if applied != "" && w.isIn(ctx, applied, status.History) {
		// A later commit that was rejected does not change what is served.
		if status.Sync.Status == api.Synced || status.Etcd.Healthy && laterRejected(status) {
			return true, "", nil
		}
		return false, describeSync(status), nil
	}
	if err := w.rejected(ctx, status); err != nil {
		return false, "", err
	}
	if err := w.stalled(status); err != nil {
		return false, "", err
	}
	if applied != "" && w.superseded(ctx, applied, status.History) {
		return false, "", &exitError{exitRefused, fmt.Errorf(
			"%s is not served: the branch moved on to %s, which does not contain it", short(w.commit), short(applied))}
	}
	if err := w.notOnBranch(ctx, status); err != nil {
		return false, "", err
	}
	return false, describeSync(status), nil
}

// stalled returns an error if the daemon reads no commit of the branch until somebody acts.
func (w *waiter) stalled(status *api.Status) error {
	failure := status.Source.Error
	if failure == nil || failure.Retryable || !idle(status) || w.mayBeOld(stalledGrace) {
		return nil
	}
	return &exitError{exitRefused, fmt.Errorf("%s will not be applied: %s", short(w.commit), join(": ", failure.Reason, failure.Message))}
}

// notOnBranch returns an error if the daemon has read the branch since the wait
// began, and neither git here nor the daemon's history says that it contains the
// commit. A mirror may lag behind the push: the wait goes on for a while, and to
// its end if this command has pushed.
func (w *waiter) notOnBranch(ctx context.Context, status *api.Status) error {
	source := status.Source
	pushed := w.pushedTo != "" && w.pushedTo == strings.TrimPrefix(source.Branch, "refs/heads/")
	if pushed || w.reads < enoughReads || w.mayBeOld(stalledGrace) || !idle(status) || source.Error != nil || source.LastAttemptedRevision == nil {
		return nil
	}
	head := source.LastAttemptedRevision.Commit
	if w.is(head) {
		return nil
	}
	yes, known := w.ancestor(ctx, head, w.commit)
	if yes || !known && w.mayBeOld(unknownGrace) {
		return nil
	}
	if !known {
		return &exitError{exitRefused, fmt.Errorf(
			"%s is not %s's head, which is %s, nor in the daemon's history: did you push? If a later commit contains it, wait for that one, or in a complete clone",
			short(w.commit), source.Branch, short(head))}
	}
	return &exitError{exitRefused, fmt.Errorf("%s is not on %s, which is at %s: did you push?", short(w.commit), source.Branch, short(head))}
}

// idle reports whether the daemon says that it neither works nor will try again by
// itself, so that the last attempted commit is the branch's head.
func idle(status *api.Status) bool {
	return slices.ContainsFunc(status.Conditions, func(c api.Condition) bool { return c.Type == api.Reconciling && c.Status == "False" })
}

// is reports whether a full hash is the commit's.
func (w *waiter) is(hash string) bool { return strings.HasPrefix(hash, w.commit) }

// isIn reports whether the commit is the applied one or an ancestor of it: by git, or
// if the repository here does not have both, by the daemon's history, in which a
// commit applied earlier is contained in a later one.
func (w *waiter) isIn(ctx context.Context, applied string, history []api.HistoryEntry) bool {
	if w.is(applied) {
		return true
	}
	if yes, known := w.ancestor(ctx, applied, w.commit); known {
		return yes
	}
	for _, entry := range history {
		if w.is(entry.Commit) && entry.Outcome == api.Applied {
			return true
		}
	}
	return false
}

func (w *waiter) ancestor(ctx context.Context, tip, commit string) (yes, known bool) {
	key := [2]string{tip, commit}
	if yes, known := w.ancestry[key]; known {
		return yes, true
	}
	if w.contains == nil {
		return false, false
	}
	yes, known = w.contains(ctx, tip, commit)
	if known {
		w.ancestry[key] = yes
	}
	return yes, known
}

// rejected returns an error if the daemon will not apply the commit: the newest
// attempt at it, or at a later commit that contains it, was invalid or refused.
func (w *waiter) rejected(ctx context.Context, status *api.Status) error {
	source := status.Source
	if tried := source.LastAttemptedRevision; tried != nil && len(source.Errors) > 0 && w.concerns(ctx, tried.Commit) {
		for _, problem := range source.Errors {
			fmt.Fprintln(w.stderr, clean(problem.String()))
		}
		return w.reject(tried.Commit, "is invalid", plural(max(source.ErrorsTotal, len(source.Errors)), "error", "errors"))
	}
	for _, entry := range status.History {
		if !w.is(entry.Commit) && (entry.Commit != status.History[0].Commit || !w.concerns(ctx, entry.Commit)) {
			continue
		}
		switch entry.Outcome {
		case api.Invalid:
			return w.reject(entry.Commit, "is invalid", entry.Message)
		case api.Refused:
			return w.reject(entry.Commit, "was refused", entry.Message)
		}
		if w.is(entry.Commit) {
			return nil
		}
	}
	return nil
}

// laterRejected reports whether git and etcd differ because a commit newer than the
// applied one was rejected.
func laterRejected(status *api.Status) bool {
	tried, applied := status.Source.LastAttemptedRevision, status.Sync.LastAppliedRevision
	failure := status.Source.Error
	switch {
	case status.Sync.Status != api.OutOfSync:
		return false
	case failure != nil && !failure.Retryable && status.Source.Reachable:
		return true
	case tried == nil || tried.Commit == applied.Commit:
		return false
	}
	if len(status.Source.Errors) > 0 {
		return true
	}
	return len(status.History) > 0 && status.History[0].Commit == tried.Commit && status.History[0].Outcome != api.Applied
}

// concerns reports whether a verdict on a tip applies to the commit: the tip contains it.
func (w *waiter) concerns(ctx context.Context, tip string) bool {
	if w.is(tip) {
		return true
	}
	yes, known := w.ancestor(ctx, tip, w.commit)
	return yes && known
}

func (w *waiter) reject(commit, verdict, reason string) error {
	subject := short(w.commit)
	if !w.is(commit) {
		subject = fmt.Sprintf("%s is not served: %s, which contains it,", subject, short(commit))
	}
	return &exitError{exitRefused, errors.New(join(": ", subject+" "+verdict, reason))}
}

// superseded reports whether the daemon has certainly moved on to a history without
// the commit: it attempted the commit earlier, or the branch moved during the wait,
// and the applied commit is not an ancestor of the commit either.
func (w *waiter) superseded(ctx context.Context, applied string, history []api.HistoryEntry) bool {
	if yes, known := w.ancestor(ctx, applied, w.commit); yes || !known {
		return false
	}
	if yes, known := w.ancestor(ctx, w.commit, applied); yes || !known {
		return false
	}
	if *w.first != applied {
		return true
	}
	for _, entry := range history {
		if entry.Commit == applied {
			// If nothing was applied since, the commit may still come.
			return w.attemptedBefore(applied, history)
		}
	}
	return false
}

// attemptedBefore reports whether the commit was attempted before the applied one.
func (w *waiter) attemptedBefore(applied string, history []api.HistoryEntry) bool {
	passed := false
	for _, entry := range history {
		if passed && w.is(entry.Commit) {
			return true
		}
		passed = passed || entry.Commit == applied
	}
	return false
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
