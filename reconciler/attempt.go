package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// attempt reads git and, if there is something to do, does it. It returns an
// error only when the term is over.
func (l *leadership) attempt(ctx context.Context) error {
	started := l.Now()
	l.setBusy(true)
	outcome, err := l.sync(ctx)
	l.setBusy(false)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrDeposed) {
		return err
	}
	l.retryAt = time.Time{}
	if source := (*SourceError)(nil); !errors.As(err, &source) {
		// Only now is it known that no request to git failed.
		l.report.Source.Error = nil
	}
	l.logFailure(err)
	if err == nil {
		l.retryWaits.Reset()
	} else {
		l.handled = ""
		if isRetryable(err) {
			l.retryAt = l.Now().Add(l.retryWaits.NextBackOff())
		}
	}
	if outcome != "" {
		l.Observer.Synced(outcome, l.Now().Sub(started))
	}
	l.publishReport()
	return nil
}

// logFailureEvery is how often a failure that lasts is logged again.
const logFailureEvery = time.Hour

// logFailure logs the result of an attempt, if it says something new: git is
// read often, and a failure may last for days.
func (l *leadership) logFailure(err error) {
	if err == nil {
		if l.loggedFailure != "" {
			l.Logger.Info("reconciling succeeded again")
		}
		l.loggedFailure = ""
		return
	}
	text := err.Error()
	// The texts of failures that are retried differ, in ports for example.
	if source := (*SourceError)(nil); errors.As(err, &source) && source.Consequence == Retry {
		text = source.Reason
	}
	if now := l.Now(); text != l.loggedFailure || now.Sub(l.loggedAt) >= logFailureEvery {
		l.loggedFailure, l.loggedAt = text, now
		l.Logger.Warn("reconciling failed", "error", err)
	}
}

func (l *leadership) setBusy(busy bool) {
	l.mu.Lock()
	l.busy = busy
	l.mu.Unlock()
}

// isRetryable reports whether trying again soon may help.
func isRetryable(err error) bool {
	var source *SourceError
	return !errors.As(err, &source) || source.Consequence == Retry
}

// failed is the outcome of an attempt that reached no verdict or could not publish.
const failed = "Failed"

// sync makes the store agree with the branch's head. Its outcome is empty
// when there was nothing to do.
func (l *leadership) sync(ctx context.Context) (outcome string, err error) {
	head, err := l.fetchHead(ctx)
	if err != nil {
		return failed, err
	}
	keysErr := l.checkKeys()
	if head == l.handled && !l.Validator.Stale() {
		l.recordSuccess(l.Store.View())
		return "", nil
	}
	if keysErr != nil {
		return l.withoutKeys(head, keysErr)
	}
	commit, verdict, refusal, err := l.validate(ctx, head)
	if err != nil {
		return failed, err
	}
	// Repairs may have changed the store until here, and nothing else of this
	// term does from here on: one view is enough for the whole decision.
	view := l.Store.View()
	published := l.published(view)
	isHead := published != nil && published.Head.Commit == head
	isPublished := isHead && verdict != nil && verdict.Set != nil && published.Head.Digest == verdict.Set.Digest()
	if refusal != "" && (verdict == nil || verdict.Set != nil && !isPublished) {
		return string(api.Unverified), l.reject(ctx, view, commit, api.Unverified, "CommitUnverified", refusal)
	}
	if verdict.Set == nil {
		if isHead {
			l.noLongerValid(head, verdict.Errors)
			return string(api.Invalid), nil
		}
		return string(api.Invalid), l.reject(ctx, view, commit, api.Invalid, "InvalidCommit",
			fmt.Sprintf("commit %s is not applied: %s", short(commit.Hash), countProblems(verdict.Errors)))
	}
	if isPublished && view.HeadVerified {
		// An earlier term published it.
		l.lastPublished = published
		l.earlier.add(published.Head)
		l.markApplied(view, head)
		return "", nil
	}
	refusal, err = l.guard(ctx, view, commit, verdict.Set)
	if err != nil {
		return failed, err
	}
	if refusal != "" {
		return string(api.Refused), l.reject(ctx, view, commit, api.Refused, "PruneRefused", refusal)
	}
	if err := l.publish(ctx, view, commit, verdict.Set); err != nil {
		return failed, err
	}
	l.markApplied(l.Store.View(), head)
	return string(api.Applied), nil
}

// fetchHead reads which commit the branch points to.
func (l *leadership) fetchHead(ctx context.Context) (string, error) {
	head, err := askAndHeal(ctx, l, l.Source.Head)
	now := l.Now()
	l.report.Source.LastTriedAt = &now
	if err != nil {
		return "", l.sourceFailed(err)
	}
	l.report.Source.Reachable, l.report.Source.LastSeenAt = true, &now
	return head, nil
}

// validate reads a commit and validates it. refusal says why its signature does
// not let it be applied, or is empty; then, unless it was applied before, there is
// no verdict: its files are not even evaluated.
func (l *leadership) validate(ctx context.Context, head string) (commit Commit, verdict *schema.Verdict, refusal string, err error) {
	if _, err := askAndHeal(ctx, l, l.earlyValidated); err != nil {
		return Commit{}, nil, "", l.validationFailed(head, err)
	}
	commit, verdict, refusal, err = l.validateFrom(ctx, l.Validator.Base(), head)
	if errors.Is(err, ErrWholeCommit) {
		commit, verdict, refusal, err = l.validateFrom(ctx, "", head)
	}
	if err == nil {
		return commit, verdict, refusal, nil
	}
	var failed *SourceError
	if errors.As(err, &failed) {
		return Commit{}, nil, "", l.sourceFailed(err)
	}
	return Commit{}, nil, "", l.validationFailed(head, err)
}

// validateFrom validates a commit by its difference to base, or as a whole if base is empty.
func (l *leadership) validateFrom(ctx context.Context, base, head string) (commit Commit, verdict *schema.Verdict, refusal string, err error) {
	delta, err := askAndHeal(ctx, l, func(ctx context.Context) (*Delta, error) {
		return l.Source.Delta(ctx, base, head)
	})
	if err != nil {
		return Commit{}, nil, "", asSourceError(err)
	}
	source := &l.report.Source
	if source.LastAttemptedRevision == nil || source.LastAttemptedRevision.Commit != head {
		source.LastAttemptedRevision = &api.CommitRef{Commit: delta.Commit.Hash, Author: delta.Commit.Author, Subject: delta.Commit.Subject, At: l.Now()}
		// Those of another commit are not this one's.
		source.Errors, source.ErrorsTotal, source.Warnings, source.WarningsTotal = nil, 0, nil, 0
	}
	if attempted := *source.LastAttemptedRevision; attempted.Signature != delta.Commit.Signature {
		// Readers may have the one before.
		attempted.Signature = delta.Commit.Signature
		source.LastAttemptedRevision = &attempted
	}
	published := l.published(l.Store.View())
	refusal, err = l.unverified(ctx, published, delta.Commit)
	evaluate := err == nil && (refusal == "" || published != nil && published.Head.Commit == head)
	if evaluate && delta.Missing != nil {
		err = l.folderGone(ctx, delta)
	}
	if evaluate && err == nil {
		verdict, err = askAndHeal(ctx, l, func(ctx context.Context) (*schema.Verdict, error) {
			return l.Validator.Apply(ctx, delta)
		})
	}
	if closeErr := delta.Close(); err == nil && closeErr != nil {
		l.Logger.Warn("closing a commit's files failed", "commit", head, "error", closeErr)
	}
	if err != nil {
		return Commit{}, nil, "", err
	}
	if !evaluate {
		source.Errors, source.ErrorsTotal, source.Warnings, source.WarningsTotal = nil, 0, nil, 0
		return delta.Commit, nil, refusal, nil
	}
	source.Errors, source.ErrorsTotal = firstProblems(verdict.Errors), len(verdict.Errors)
	source.Warnings, source.WarningsTotal = firstProblems(verdict.Warnings), len(verdict.Warnings)
	return delta.Commit, verdict, refusal, nil
}

// validationFailed records a failure of the validator, and returns it.
func (l *leadership) validationFailed(head string, err error) error {
	l.report.SyncError = l.failure(l.report.SyncError, "ValidationFailed", err.Error(), Retry)
	return fmt.Errorf("validating commit %s: %w", short(head), err)
}

// folderGone decides on a commit without the policy folder. If the last applied
// commit had the folder, somebody removed all policies: the commit has none,
// and gets a warning. Otherwise --path or the repository may be a wrong one,
// and folderGone returns why the commit cannot be applied.
func (l *leadership) folderGone(ctx context.Context, delta *Delta) error {
	published := l.published(l.Store.View())
	if published == nil {
		return delta.Missing
	}
	asked := [2]string{published.Head.Commit, delta.Commit.Hash}
	if asked == l.neverHad {
		return delta.Missing
	}
	// An empty set stays empty, whether its commit had the folder or not.
	if published.Set.Len() > 0 {
		had, err := askAndHeal(ctx, l, func(ctx context.Context) (bool, error) {
			return l.Source.HasFolder(ctx, published.Head.Commit)
		})
		if err != nil {
			return err
		}
		if !had {
			l.neverHad = asked
			return delta.Missing
		}
	}
	delta.Warnings = append(delta.Warnings, schema.Problem{File: l.Path, Message: "commit " + short(delta.Commit.Hash) + " has no folder of this name, and so no policies"})
	return nil
}

// reject marks a commit that is not published as handled, and records it once.
func (l *leadership) reject(ctx context.Context, view *StoreView, commit Commit, outcome api.Outcome, reason, message string) error {
	l.report.SyncError = l.failure(l.report.SyncError, reason, message, WaitForPush)
	if !isNewest(view.History, commit.Hash, outcome) {
		l.Logger.Warn("commit not applied", "commit", commit.Hash, "outcome", outcome, "reason", message)
		entry := newEntry(commit, outcome, l.Now())
		entry.Message = message
		ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
		defer cancel()
		if err := l.term.Record(ctx, entry); err != nil {
			l.Observer.Failed("etcd", "Record")
			return fmt.Errorf("recording that commit %s is not applied: %w", short(commit.Hash), err)
		}
	}
	l.handled = commit.Hash
	return nil
}

// noLongerValid notes that the commit that is served would be refused now. It stays
// served: the limits, or a newer version of the schema, hold for what is to be applied.
func (l *leadership) noLongerValid(commit string, problems []schema.Problem) {
	message := fmt.Sprintf("commit %s stays served, but it is not valid any more: %s", short(commit), countProblems(problems))
	l.report.SyncError = l.failure(l.report.SyncError, "NoLongerValid", message, WaitForPush)
	l.Logger.Warn("the served commit is not valid any more", "commit", commit, "problems", countProblems(problems))
	l.handled = commit
}

// isNewest reports whether the newest entry of a history is that commit with that outcome.
func isNewest(history []api.HistoryEntry, commit string, outcome api.Outcome) bool {
	return len(history) > 0 && history[0].Commit == commit && history[0].Outcome == outcome
}

func newEntry(commit Commit, outcome api.Outcome, at time.Time) api.HistoryEntry {
	return api.HistoryEntry{Commit: commit.Hash, Author: commit.Author, Subject: commit.Subject, Outcome: outcome, At: at, Signature: commit.Signature}
}

// markApplied notes that a commit is published.
func (l *leadership) markApplied(view *StoreView, commit string) {
	l.handled, l.report.SyncError = commit, nil
	l.recordSuccess(view)
}

// recordSuccess moves the time of the last success if git and etcd agree.
func (l *leadership) recordSuccess(view *StoreView) {
	attempted := l.report.Source.LastAttemptedRevision
	if l.report.SyncError != nil || view.State == nil || attempted == nil || attempted.Commit != view.State.Head.Commit {
		return
	}
	if !l.headReplaced(view) && view.Drift.Status == api.DriftNone && view.Health.Healthy {
		now := l.Now()
		l.report.LastSuccessAt = &now
	}
}

// asSourceError returns an error of the source as a SourceError.
func asSourceError(err error) error {
	if source := (*SourceError)(nil); errors.As(err, &source) {
		return err
	}
	return &SourceError{Reason: "Unreachable", Consequence: Retry, Err: err}
}

// sourceFailed puts an error of git into the report, and returns it as a SourceError.
func (l *leadership) sourceFailed(err error) error {
	err = asSourceError(err)
	var source *SourceError
	_ = errors.As(err, &source) // it is one
	message := source.Reason
	if source.Err != nil {
		message = source.Err.Error() // The status has the reason in a separate field.
	}
	l.report.Source.Reachable = source.Consequence == WaitForPush
	l.report.Source.Error = l.failure(l.report.Source.Error, source.Reason, message, source.Consequence)
	l.Observer.Failed("git", source.Reason)
	return err
}

// failure describes a failure for the status. One with the same reason as the
// failure before keeps the time at which that began.
func (l *leadership) failure(before *api.Failure, reason, message string, consequence Consequence) *api.Failure {
	since := l.Now()
	if before != nil && before.Reason == reason {
		since = before.Since
	}
	return &api.Failure{Reason: reason, Message: message, Since: since, Retryable: consequence == Retry}
}

func short(hash string) string { return hash[:min(len(hash), 12)] }
