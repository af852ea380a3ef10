package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/boifi/hfi/internal/api"
)

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
	if !idle(status) || w.mayBeOld(stalledGrace) {
		return nil
	}
	if failure := status.Source.Error; failure != nil && !failure.Retryable {
		return &exitError{exitRefused, fmt.Errorf("%s will not be applied: %s", short(w.commit), join(": ", failure.Reason, failure.Message))}
	}
	if lacksKeys(status) {
		return &exitError{exitRefused, fmt.Errorf("%s will not be applied: %s", short(w.commit), join(": ", api.TrustedKeysUnusable, status.Sync.Message))}
	}
	return nil
}

// lacksKeys reports whether the daemon does not apply the branch's head because
// it cannot read the keys that verify signatures.
func lacksKeys(status *api.Status) bool {
	return status.Sync.Status == api.OutOfSync && slices.ContainsFunc(status.Conditions, func(c api.Condition) bool {
		return c.Type == api.Stalled && c.Status == "True" && c.Reason == api.TrustedKeysUnusable
	})
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
		case api.Unverified:
			return w.reject(entry.Commit, "is not verified", entry.Message)
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
	case failure != nil && !failure.Retryable && status.Source.Reachable, lacksKeys(status):
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
