package reconciler

import (
	"context"
	"errors"
	"fmt"
	"github.com/boifi/hfi/internal/api"
	"time"
)

// stubborn is after how many repairs in a row the status says that something
// keeps undoing them.
const stubborn = 3

// calm is how long nothing must drift until a repair counts as the first of a row again.
const calm = 5 * time.Minute

// patience is how long git and the validator may take until repairs do not
// wait for them any more. Mostly they are faster, and what they say may be
// published in place of a repair.
const patience = time.Second

// meanwhile asks git or the validator, within StepTimeout, and repairs what
// must be while there is no answer: a remote that hangs holds back nothing but
// its own commits. What asks must not touch the leadership's memory.
func meanwhile[T any](ctx context.Context, l *leadership, ask func(ctx context.Context) (T, error)) (T, error) {
	limit, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	var answer T
	var err error
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		answer, err = ask(limit)
	}()
	again := time.NewTicker(patience)
	defer again.Stop()
	for {
		select {
		case <-answered:
			return answer, err
		case <-again.C:
			if l.repair(ctx) != nil {
				// The term is over: the answer is waited for, which comes soon
				// as ctx ends with the term, and whatever it is, no write succeeds.
				again.Stop()
			}
			l.share()
		}
	}
}

// needsRepair says whether the store must be made to hold the verified state
// again: it drifted and the daemon was told to heal, or its head was lost or
// replaced. A lost head (a wiped store, say) is no drift to report and leave:
// a replica that starts would have nothing to serve, whatever git's newest
// commit is. Nor is a replaced one: replicas serve what it says.
func (l *leadership) needsRepair() bool {
	if !l.Store.Health().Healthy || l.published() == nil {
		return false
	}
	return !l.Store.HeadVerified() || l.strayed() || l.DriftMode == HealDrift && l.Store.Drift().Status == api.DriftDetected
}

// repair publishes the last verified state again where that is needed.
// Repairs that are undone come ever more slowly.
func (l *leadership) repair(ctx context.Context) error {
	now := l.Now()
	if now.Sub(l.healedAt) > calm {
		l.healStreak = 0
		l.heal.reset()
	}
	if !l.needsRepair() {
		l.calmed()
		return nil
	}
	if now.Before(l.healAt) {
		return nil
	}
	l.healedAt = now
	state, drift := l.published(), l.Store.Drift()
	status := api.HealStatus{}
	if l.findings.Heal != nil {
		status = *l.findings.Heal
	}
	if found := l.Store.State(); l.strayed() {
		l.Logger.Warn("etcd's head was replaced by another than this daemon's: publishing the right one again",
			"found", found.Head.Commit, "right", state.Head.Commit)
	}
	err := l.put(ctx, Publication{Commit: state.Head.Commit, Set: state.Set})
	if errors.Is(err, ErrDeposed) || ctx.Err() != nil {
		return errors.Join(err, ctx.Err())
	}
	wait := l.heal.next()
	l.healAt = l.Now().Add(wait)
	if err != nil {
		l.Observer.Failed("etcd", "Heal")
		l.Logger.Warn("repairing drift failed", "error", err, "again_in", wait)
		status.Message = fmt.Sprintf("the last repair failed: %v", err)
		l.findings.Heal = &status
		return nil
	}
	l.healStreak++
	status.Repairs++
	done := l.Now()
	status.LastAt, status.Message = &done, ""
	if l.healStreak >= stubborn {
		status.Message = fmt.Sprintf("something keeps changing etcd: %d repairs in a row were undone, the next one waits %s; first key: %s",
			l.healStreak-1, wait, firstKey(drift))
	}
	l.Logger.Info("repaired drift", "keys", drift.Total, "first_key", firstKey(drift), "in_a_row", l.healStreak)
	l.findings.Heal = &status
	return nil
}

// calmed takes back what was said of repairs once it is true no more: the
// last one failed and is needed no longer, or nothing has undone it for long.
func (l *leadership) calmed() {
	heal := l.findings.Heal
	if heal == nil || heal.Message == "" || l.healStreak >= stubborn || !l.Store.Health().Healthy {
		return
	}
	quiet := *heal
	quiet.Message = ""
	l.findings.Heal = &quiet
}

func firstKey(drift api.Drift) string {
	if len(drift.Items) == 0 {
		return ""
	}
	return drift.Items[0].Key
}
