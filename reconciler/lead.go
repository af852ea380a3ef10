package reconciler

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// leadership is one term's memory. Only the term's goroutine uses it.
type leadership struct {
	*Reconciler
	term Term
	// findings are what is reported next; Reconciler.own is a copy for readers.
	findings LeaderReport
	// settled is the commit that needs no further attempt, with its outcome.
	settled string
	// validated and stamped are the set last published, as the validator gave
	// it and with the commits filled in; nil before this term published.
	validated, stamped *schema.Set
	// rightful is the state that this term published, or found and has no
	// reason to doubt; nil before. tried is what it last set out to publish,
	// which may have come about though it was not confirmed.
	rightful    *State
	tried       Publication
	reported    LeaderReport
	reportedAt  time.Time
	retry, heal backoff
	// retryAt is when the next try is due, or zero; healAt is the earliest time
	// of the next repair.
	retryAt, healAt time.Time
	// healedAt is when the last repair was tried, well or not.
	healedAt   time.Time
	healStreak int
}

// lead reconciles until the term or the context ends.
func (r *Reconciler) lead(ctx context.Context, term Term) error {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		select {
		case <-term.Done():
			cancel()
		case <-ctx.Done():
		}
	})

	l := &leadership{
		Reconciler: r, term: term,
		retry: backoff{min: r.RetryMin, max: r.Interval},
		heal:  backoff{min: r.HealMin, max: r.HealMax},
	}
	l.inherit()
	l.share()
	poll := time.NewTicker(r.Interval)
	defer poll.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	look := true
	for {
		if look {
			if err := l.attempt(ctx); err != nil {
				return err
			}
		}
		if err := l.repair(ctx); err != nil {
			return err
		}
		if err := l.report(ctx); err != nil {
			return err
		}
		due.Reset(l.untilDue())
		look = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.Source.Changed():
		case <-term.Triggers():
		case <-r.poke:
		case <-poll.C:
		case <-r.moved:
			look = l.retryDue()
		case <-due.C:
			look = l.retryDue()
		}
	}
}

// retryDue says whether a failed attempt is to be made again now.
func (l *leadership) retryDue() bool {
	return !l.retryAt.IsZero() && !l.Now().Before(l.retryAt)
}

// untilDue is how long there is nothing to do unless something happens.
func (l *leadership) untilDue() time.Duration {
	wait, now := l.Interval, l.Now()
	if !l.retryAt.IsZero() {
		wait = min(wait, l.retryAt.Sub(now))
	}
	if l.needsRepair() {
		wait = min(wait, l.healAt.Sub(now))
	}
	return max(wait, 0)
}

// inherit takes over what the leader before had found out, so that times
// that tell since when something holds survive a hand-over.
func (l *leadership) inherit() {
	if before := l.Store.Findings(); before != nil {
		l.findings = *before
	}
	l.findings.Leader = l.ID
	l.findings.Source.URL, l.findings.Source.Branch, l.findings.Source.Path = l.URL, l.Branch, l.Path
	if l.Store.HeadVerified() {
		l.rightful = l.Store.State()
	}
	l.findings.Heal = nil
	if l.DriftMode == HealDrift {
		l.findings.Heal = &api.HealStatus{}
	}
}

// share lets Status see the findings.
func (l *leadership) share() {
	copied := l.findings
	l.mu.Lock()
	l.own = &copied
	l.mu.Unlock()
}

func (l *leadership) working(busy bool) {
	l.mu.Lock()
	l.busy = busy
	l.mu.Unlock()
}

// attempt looks at git and, if there is something to do, does it. It returns
// an error only when the term is over.
func (l *leadership) attempt(ctx context.Context) error {
	started := l.Now()
	l.working(true)
	outcome, err := l.sync(ctx)
	l.working(false)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, ErrDeposed) {
		return err
	}
	l.retryAt = time.Time{}
	if source := (*SourceError)(nil); !errors.As(err, &source) {
		// Only now is it known that git gave all that was asked of it.
		l.findings.Source.Error = nil
	}
	if err == nil {
		l.retry.reset()
	} else {
		l.settled = ""
		l.Logger.Warn("reconciling failed", "error", err)
		if again(err) {
			l.retryAt = l.Now().Add(l.retry.next())
		}
	}
	if outcome != "" {
		l.Observer.Synced(outcome, l.Now().Sub(started))
	}
	l.share()
	return nil
}

// again says whether trying again soon may help.
func again(err error) bool {
	var source *SourceError
	return !errors.As(err, &source) || source.Then == Retry
}

// The outcome of an attempt that reached no verdict or could not publish.
const failed = "Failed"

// sync makes the store agree with the branch's head. Its outcome is empty
// when there was nothing to do.
func (l *leadership) sync(ctx context.Context) (outcome string, err error) {
	head, err := l.look(ctx)
	if err != nil {
		return failed, err
	}
	if head == l.settled {
		l.agree()
		return "", nil
	}
	commit, verdict, err := l.judge(ctx, head)
	if err != nil {
		return failed, err
	}
	if verdict.Set == nil {
		return string(api.Invalid), l.reject(ctx, commit, api.Invalid, "InvalidCommit",
			fmt.Sprintf("commit %s is not applied: %s", short(commit.Hash), countProblems(verdict.Errors)))
	}
	published := l.published()
	if published != nil && published.Head.Commit == head && published.Head.Digest == verdict.Set.Digest() && l.Store.HeadVerified() {
		// An earlier term published it.
		l.rightful = published
		l.settle(head)
		return "", nil
	}
	refusal, err := l.guard(ctx, published, commit, verdict.Set)
	if err != nil {
		return failed, err
	}
	if refusal != "" {
		return string(api.Refused), l.reject(ctx, commit, api.Refused, "PruneRefused", refusal)
	}
	if err := l.publish(ctx, commit, verdict.Set, published); err != nil {
		return failed, err
	}
	l.settle(head)
	return string(api.Applied), nil
}

// settle notes that a commit is published.
func (l *leadership) settle(commit string) {
	l.settled, l.findings.SyncError = commit, nil
	l.agree()
}

// look reads where the branch is.
func (l *leadership) look(ctx context.Context) (string, error) {
	head, err := meanwhile(ctx, l, l.Source.Head)
	if err != nil {
		return "", l.sourceFailed(err)
	}
	now := l.Now()
	l.findings.Source.Reachable, l.findings.Source.LastSeenAt = true, &now
	return head, nil
}

func (l *leadership) sourceFailed(err error) error {
	var source *SourceError
	if !errors.As(err, &source) {
		source = &SourceError{Reason: "Unreachable", Then: Retry, Err: err}
		err = source
	}
	message := source.Reason
	if source.Err != nil {
		message = source.Err.Error() // The reason is told beside it.
	}
	l.findings.Source.Reachable = source.Then == Await
	l.findings.Source.Error = l.failure(l.findings.Source.Error, source.Reason, message)
	l.Observer.Failed("git", source.Reason)
	return err
}

// failure keeps the time at which a failure of the same reason began.
func (l *leadership) failure(before *api.Failure, reason, message string) *api.Failure {
	since := l.Now()
	if before != nil && before.Reason == reason {
		since = before.Since
	}
	return &api.Failure{Reason: reason, Message: message, Since: since}
}

// judge reads a commit and validates it.
func (l *leadership) judge(ctx context.Context, head string) (Commit, *schema.Verdict, error) {
	delta, err := meanwhile(ctx, l, func(ctx context.Context) (*Delta, error) {
		return l.Source.Delta(ctx, l.Validator.Base(), head)
	})
	if err != nil {
		return Commit{}, nil, l.sourceFailed(err)
	}
	verdict, err := meanwhile(ctx, l, func(ctx context.Context) (*schema.Verdict, error) {
		return l.Validator.Apply(ctx, delta)
	})
	if closeErr := delta.Close(); err == nil && closeErr != nil {
		l.Logger.Warn("letting go of a commit's files", "error", closeErr)
	}
	if err != nil {
		var source *SourceError
		if errors.As(err, &source) {
			return Commit{}, nil, l.sourceFailed(err)
		}
		l.findings.SyncError = l.failure(l.findings.SyncError, "ValidationFailed", err.Error())
		return Commit{}, nil, fmt.Errorf("validating commit %s: %w", short(head), err)
	}
	source := &l.findings.Source
	if source.LastAttemptedRevision == nil || source.LastAttemptedRevision.Commit != head {
		source.LastAttemptedRevision = &api.CommitRef{Commit: delta.Commit.Hash, Author: delta.Commit.Author, Subject: delta.Commit.Subject, At: l.Now()}
	}
	source.Errors, source.ErrorsTotal = firstProblems(verdict.Errors), len(verdict.Errors)
	source.Warnings, source.WarningsTotal = firstProblems(verdict.Warnings), len(verdict.Warnings)
	return delta.Commit, verdict, nil
}

// reject settles a commit that is not published, and records it once.
func (l *leadership) reject(ctx context.Context, commit Commit, outcome api.Outcome, reason, message string) error {
	l.findings.SyncError = l.failure(l.findings.SyncError, reason, message)
	if !l.recorded(commit.Hash, outcome) {
		l.Logger.Warn("commit not applied", "commit", commit.Hash, "outcome", outcome, "reason", message)
		entry := entryOf(commit, outcome, l.Now())
		entry.Message = message
		ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
		defer cancel()
		if err := l.term.Record(ctx, entry); err != nil {
			l.Observer.Failed("etcd", "Record")
			return fmt.Errorf("recording that commit %s is not applied: %w", short(commit.Hash), err)
		}
	}
	l.settled = commit.Hash
	return nil
}

// recorded says whether the newest entry of the history is this one.
func (l *leadership) recorded(commit string, outcome api.Outcome) bool {
	history := l.Store.History()
	return len(history) > 0 && history[0].Commit == commit && history[0].Outcome == outcome
}

func entryOf(commit Commit, outcome api.Outcome, at time.Time) api.HistoryEntry {
	return api.HistoryEntry{Commit: commit.Hash, Author: commit.Author, Subject: commit.Subject, Outcome: outcome, At: at}
}

// agree notes that git and etcd agree, if they do.
func (l *leadership) agree() {
	state := l.Store.State()
	attempted := l.findings.Source.LastAttemptedRevision
	if l.findings.SyncError != nil || state == nil || attempted == nil || attempted.Commit != state.Head.Commit {
		return
	}
	if !l.strayed() && l.Store.Drift().Status == api.DriftNone && l.Store.Health().Healthy {
		now := l.Now()
		l.findings.LastSuccessAt = &now
	}
}

// report stores the findings when they say something new, or have not been
// stored for an interval. The store being away is no error: it will be tried again.
func (l *leadership) report(ctx context.Context) error {
	l.share()
	l.findings.Conditions = l.Status().Conditions
	now := l.Now()
	if sameFindings(l.findings, l.reported) && now.Sub(l.reportedAt) < l.Interval {
		return nil
	}
	l.findings.At = now
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	copied := l.findings
	err := l.term.Report(ctx, &copied)
	switch {
	case errors.Is(err, ErrDeposed):
		return err
	case err != nil:
		l.Observer.Failed("etcd", "Report")
		l.Logger.Warn("followers are not told what this leader knows; trying again later", "error", err)
		return nil
	}
	l.reported, l.reportedAt = copied, now
	return nil
}

// sameFindings compares findings without the times that move at every look.
func sameFindings(a, b LeaderReport) bool {
	a.At, b.At = time.Time{}, time.Time{}
	a.Source.LastSeenAt, b.Source.LastSeenAt = nil, nil
	a.LastSuccessAt, b.LastSuccessAt = nil, nil
	return reflect.DeepEqual(a, b)
}

func short(hash string) string { return hash[:min(len(hash), 12)] }
