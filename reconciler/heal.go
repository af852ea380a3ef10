package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/internal/api"
)

const (
	// repairsUntilWarning is after how many repairs in a row the status says
	// that something keeps undoing them.
	repairsUntilWarning = 3
	// streakExpiry is how long no repair must be needed until the next one
	// counts as the first of a row.
	streakExpiry = 5 * time.Minute
	// repairWhileWaiting is the time between two repairs while git or the
	// validator has not answered. Mostly they answer sooner, and then their
	// commit may be published in place of a repair. It also is the time after a
	// repair of a forged record that failed: growing waits would help the forger.
	repairWhileWaiting = time.Second
)

// askAndHeal calls ask (git or the validator) with a limit of StepTimeout, and
// makes the repairs that are needed until it answers: a remote that hangs
// delays its own commits only. ask must not touch the leadership's fields.
func askAndHeal[T any](ctx context.Context, l *leadership, ask func(ctx context.Context) (T, error)) (T, error) {
	limit, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	var answer T
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		answer, err = ask(limit)
	}()
	tick := time.NewTicker(repairWhileWaiting)
	defer tick.Stop()
	for {
		select {
		case <-answered:
			return answer, err
		case <-tick.C:
			if l.repair(ctx) != nil {
				// The term is over. ask ends soon, as ctx ends with the term,
				// and no write succeeds whatever it answers.
				tick.Stop()
			}
			l.publishReport()
		}
	}
}

// needsRepair reports whether the last verified state must be published again:
// the store drifted in drift mode heal, or its head or epoch was lost or replaced. In
// drift mode report too, a lost head or epoch (a wiped store, say) is repaired, because
// a replica that starts would have nothing to serve, whatever git's newest
// commit is; and so is a replaced one, because replicas serve it.
func (l *leadership) needsRepair(view *StoreView) bool {
	if !view.Health.Healthy || l.published(view) == nil {
		return false
	}
	return !view.HeadVerified || l.headReplaced(view) || l.DriftMode == HealDrift && view.Drift.Status == api.DriftDetected
}

// repairDue is the earliest time of the next repair. What is forged is repaired
// at once, however often other repairs were undone, and at constant intervals.
func (l *leadership) repairDue(view *StoreView) time.Time {
	if view.Forged != "" {
		return l.forgedAt
	}
	return l.healAt
}

// repair publishes the last verified state again if that is needed. Repairs
// that are undone come at growing intervals. It returns an error only when
// the term is over.
func (l *leadership) repair(ctx context.Context) error {
	view, now := l.Store.View(), l.Now()
	if now.Sub(l.healedAt) > streakExpiry {
		l.healStreak = 0
		l.healWaits.Reset()
	}
	if !l.needsRepair(view) {
		l.clearHealMessage(view)
		return nil
	}
	if now.Before(l.repairDue(view)) {
		return nil
	}
	l.healedAt = now
	state := l.published(view)
	if l.headReplaced(view) {
		l.Logger.Warn("etcd's head was replaced by another writer; publishing the last published set again",
			"found", view.State.Head.Commit, "commit", state.Head.Commit)
	}
	err := l.put(ctx, Publication{Commit: state.Head.Commit, Set: state.Set})
	if errors.Is(err, ErrDeposed) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	wait := l.ForgedMin
	if view.Forged != "" {
		if err != nil {
			wait = max(wait, repairWhileWaiting)
		} else {
			l.Logger.Warn("a record in etcd was forged; published the last published set again", "forged", view.Forged, "commit", state.Head.Commit)
		}
		l.forgedAt = l.Now().Add(wait)
	} else {
		wait = l.healWaits.NextBackOff()
		l.healAt = l.Now().Add(wait)
	}
	l.recordRepair(view.Drift, wait, err)
	return nil
}

// recordRepair puts the outcome of a repair into the report and the log.
func (l *leadership) recordRepair(drift api.Drift, wait time.Duration, err error) {
	status := api.HealStatus{}
	if l.report.Heal != nil {
		status = *l.report.Heal
	}
	l.report.Heal = &status
	if err != nil {
		l.Observer.Failed("etcd", "Heal")
		l.Logger.Warn("repairing drift failed", "error", err, "retry_in", wait)
		status.Message = fmt.Sprintf("the last repair failed: %v", err)
		return
	}
	l.healStreak++
	status.Repairs++
	done := l.Now()
	status.LastAt, status.Message = &done, ""
	if l.healStreak >= repairsUntilWarning {
		status.Message = fmt.Sprintf("something keeps changing etcd: %d repairs in a row were undone, the next one waits %s; first key: %s",
			l.healStreak-1, wait.Round(time.Millisecond), firstKey(drift))
	}
	l.Logger.Info("repaired drift", "keys", drift.Total, "first_key", firstKey(drift), "in_a_row", l.healStreak)
}

// clearHealMessage removes the message about repairs once it no longer holds:
// the last repair failed and none is needed any more, or nothing has undone a
// repair for a long time.
func (l *leadership) clearHealMessage(view *StoreView) {
	heal := l.report.Heal
	if heal == nil || heal.Message == "" || l.healStreak >= repairsUntilWarning || !view.Health.Healthy {
		return
	}
	cleared := *heal
	cleared.Message = ""
	l.report.Heal = &cleared
}

func firstKey(drift api.Drift) string {
	if len(drift.Items) == 0 {
		return ""
	}
	return drift.Items[0].Key
}
