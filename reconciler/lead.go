package reconciler

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/backoff"
	"github.com/boifi/hfi/schema"
)

// leadership is the memory of one term. Only the term's goroutine uses it.
type leadership struct {
	*Reconciler
	term Term

	// report is what is stored for followers next. Reconciler.own is a copy for readers.
	report LeaderReport
	// stored is the report that the store holds, stored at storedAt; triedAt is
	// when one was last to be stored.
	stored            LeaderReport
	storedAt, triedAt time.Time
	// awaited says that somebody triggered a read, and that it is not reported yet.
	awaited bool

	// handled is the commit that needs no further attempt: it was published,
	// or rejected and recorded. Empty after a failure.
	handled string
	// keys identifies the trusted keys that handled was decided with; empty if
	// signatures are not verified, or the keys could not be used.
	keys string
	// neverHad is a published commit that had no policy folder, or was not in
	// the repository, when the branch was at the second commit. git is asked
	// once: the answer costs a fetch of history.
	neverHad [2]string
	// validated is the set published last, as the validator returned it, and
	// stamped is the same set with the commit of each policy filled in. Both
	// are nil until this term has published a commit.
	validated, stamped *schema.Set

	// lastPublished is the state that this term published, or found verified
	// when it began or in git; nil before. While the store serves another one,
	// headReplaced holds.
	lastPublished *State
	// earlier are the sets that this term has published, or found published.
	earlier publishedSets
	// lastTried is the last publication tried. It may have succeeded though it
	// was not confirmed, so a state equal to it is no replaced head.
	lastTried Publication

	// loggedFailure is what was logged last of a failure that lasts, at loggedAt; empty if none does.
	loggedFailure string
	loggedAt      time.Time

	// retryAt is when a failed attempt is made again; zero if none is due.
	retryAt    time.Time
	retryWaits *backoff.Waits
	// healAt is the earliest time of the next repair; healedAt is when the
	// last one was tried; healStreak counts the successful ones in a row.
	healAt, healedAt time.Time
	// forgedAt is the earliest time of the next repair of something forged.
	forgedAt   time.Time
	healStreak int
	healWaits  *backoff.Waits
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

	l := &leadership{Reconciler: r, term: term, retryWaits: r.waits(r.RetryMin, r.Interval), healWaits: r.waits(r.HealMin, r.HealMax)}
	l.inherit()
	l.publishReport()
	poll := time.NewTicker(r.Interval)
	defer poll.Stop()
	due := time.NewTimer(0)
	defer due.Stop()
	attempt := true
	for {
		if attempt {
			if err := l.attempt(ctx); err != nil {
				return err
			}
		}
		if err := l.repair(ctx); err != nil {
			return err
		}
		if err := l.storeReport(ctx); err != nil {
			return err
		}
		due.Reset(l.untilDue())
		attempt = true
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.Source.Changed():
		case <-term.Triggers():
			l.awaited = true
		case <-r.trigger:
			l.awaited = true
		case <-poll.C:
		case <-r.storeChanged:
			attempt = l.retryDue()
		case <-due.C:
			attempt = l.retryDue()
		}
	}
}

// retryDue reports whether a failed attempt is due to be made again.
func (l *leadership) retryDue() bool {
	return !l.retryAt.IsZero() && !l.Now().Before(l.retryAt)
}

// untilDue returns how long there is nothing to do unless something happens.
func (l *leadership) untilDue() time.Duration {
	wait, now := l.Interval, l.Now()
	if !l.retryAt.IsZero() {
		wait = min(wait, l.retryAt.Sub(now))
	}
	view := l.Store.View()
	if view.ReportLost || l.awaited {
		wait = min(wait, l.triedAt.Add(repeatReportAfter).Sub(now))
	}
	if l.needsRepair(view) {
		wait = min(wait, l.repairDue(view).Sub(now))
	}
	return max(wait, 0)
}

// inherit continues the report of the leader before, so that the times since
// which something holds survive a change of leader.
func (l *leadership) inherit() {
	view := l.Store.View()
	if view.LeaderReport != nil {
		l.report = *view.LeaderReport
	}
	l.report.Leader = l.ID
	l.report.Source.URL, l.report.Source.Branch, l.report.Source.Path = l.URL, l.Branch, l.Path
	if view.HeadVerified {
		l.lastPublished = view.State
	}
	l.report.Heal = nil
	if l.DriftMode == HealDrift {
		l.report.Heal = &api.HealStatus{}
	}
}

// publishReport makes the report visible to Status.
func (l *leadership) publishReport() {
	copied := l.report
	l.mu.Lock()
	l.own = &copied
	l.mu.Unlock()
}

// repeatReportAfter is the least time between two reports that say the same.
const repeatReportAfter = time.Second

// reportToRepeat reports whether the report is to be stored again now: another
// writer removed or replaced it, or somebody waits for a read that it dates.
func (l *leadership) reportToRepeat(now time.Time) bool {
	return (l.Store.View().ReportLost || l.awaited) && now.Sub(l.triedAt) >= repeatReportAfter
}

// storeReport stores the report for the followers if it says something new, or
// was not stored for an interval. It returns an error only when the term is
// over; another failure is tried again later.
func (l *leadership) storeReport(ctx context.Context) error {
	l.publishReport()
	l.report.Conditions = l.Status().Conditions
	now := l.Now()
	if sameReport(l.report, l.stored) && now.Sub(l.storedAt) < l.Interval && !l.reportToRepeat(now) {
		return nil
	}
	l.report.At, l.triedAt = now, now
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	copied := l.report
	err := l.term.Report(ctx, &copied)
	switch {
	case errors.Is(err, ErrDeposed):
		return err
	case err != nil:
		l.Observer.Failed("etcd", "Report")
		l.Logger.Warn("storing the leader's report failed; followers show an older one until it succeeds", "error", err)
		return nil
	}
	l.stored, l.storedAt, l.awaited = copied, now, false
	return nil
}
