package reconciler

import (
	"context"
	"errors"
	"fmt"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// published is the state that the next publication follows: the store's or,
// if the store has lost everything, the one that is served or was kept on disk.
func (l *leadership) published() *State {
	if l.strayed() {
		return l.rightful
	}
	if state := l.Store.State(); state != nil {
		return state
	}
	if served := l.Served(); served != nil {
		return served
	}
	// Just started on a store that is empty: it was wiped, for this daemon has served before.
	return l.kept
}

// strayed says that the store's state, though it agrees with its head, is
// none of this term's: someone put an older head and its policies back, from
// a backup say. No newer leader did, or the term would be over.
func (l *leadership) strayed() bool {
	state := l.Store.State()
	if l.rightful == nil || state == nil {
		return false
	}
	is := func(commit string, digest schema.Digest) bool {
		return state.Head.Commit == commit && state.Head.Digest == digest
	}
	return !is(l.rightful.Head.Commit, l.rightful.Head.Digest) && (l.tried.Set == nil || !is(l.tried.Commit, l.tried.Set.Digest()))
}

// put publishes, and remembers what.
func (l *leadership) put(ctx context.Context, publication Publication) error {
	ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	l.tried = publication
	state, err := l.term.Publish(ctx, publication)
	if err == nil {
		l.rightful = state
	}
	return err
}

// publish makes the store hold the set.
func (l *leadership) publish(ctx context.Context, commit Commit, set *schema.Set, published *State) error {
	target := l.stampFor(set, published, commit.Hash)
	entry := entryOf(commit, api.Applied, l.Now())
	entry.Digest = target.Digest()
	if published != nil && published.Head.Digest != entry.Digest {
		entry.Restores = restored(l.Store.History(), entry.Digest)
	}
	if err := l.put(ctx, Publication{Commit: commit.Hash, Set: target, Entry: &entry}); err != nil {
		if !errors.Is(err, ErrDeposed) {
			l.Observer.Failed("etcd", "Publish")
			l.findings.SyncError = l.failure(l.findings.SyncError, "PublishFailed", err.Error())
		}
		return fmt.Errorf("publishing commit %s: %w", short(commit.Hash), err)
	}
	l.validated, l.stamped = set, target
	return nil
}

func (l *leadership) stampFor(set *schema.Set, published *State, commit string) *schema.Set {
	if l.stamped != nil {
		return stamp(l.stamped, schema.Diff(l.validated, set), commit)
	}
	before := schema.NewSet()
	if published != nil {
		before = published.Set
	}
	return stamp(before, schema.Diff(before, set), commit)
}

// restored is the newest published commit with that digest, or empty.
func restored(history []api.HistoryEntry, digest schema.Digest) string {
	for _, entry := range history {
		if entry.Outcome == api.Applied && entry.Digest == digest {
			return entry.Commit
		}
	}
	return ""
}
