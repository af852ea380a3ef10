package reconciler

import (
	"context"
	"errors"
	"fmt"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// published returns the state that the next publication follows: the store's
// or, if the store has lost everything, the one that is served or was kept on
// disk.
func (l *leadership) published(view *StoreView) *State {
	if l.headReplaced(view) {
		return l.lastPublished
	}
	if view.State != nil {
		return view.State
	}
	if served := l.Served(); served != nil {
		return served
	}
	// This daemon has just started, has served before, and the store is empty: it was wiped.
	return l.kept
}

// headReplaced reports that the store's state, though it agrees with its head,
// was not published by this term: another writer put an older head and its
// policies back, from a backup say. No newer leader did, or the term would be over.
func (l *leadership) headReplaced(view *StoreView) bool {
	if l.lastPublished == nil || view.State == nil {
		return false
	}
	is := func(commit string, digest schema.Digest) bool {
		return view.State.Head.Commit == commit && view.State.Head.Digest == digest
	}
	return !is(l.lastPublished.Head.Commit, l.lastPublished.Head.Digest) &&
		(l.lastTried.Set == nil || !is(l.lastTried.Commit, l.lastTried.Set.Digest()))
}

// put publishes, and remembers what it published.
func (l *leadership) put(ctx context.Context, publication Publication) error {
	ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	l.lastTried = publication
	state, err := l.term.Publish(ctx, publication)
	if err == nil {
		l.lastPublished = state
		if publication.Entry != nil { // A repair publishes what was found.
			l.earlier.add(state.Head)
		}
	}
	return err
}

// publish makes the store hold the set of a commit.
func (l *leadership) publish(ctx context.Context, view *StoreView, commit Commit, set *schema.Set) error {
	published := l.published(view)
	target := l.stampFor(set, published, commit.Hash)
	entry := newEntry(commit, api.Applied, l.Now())
	entry.Digest = target.Digest()
	if published != nil && published.Head.Digest != entry.Digest {
		entry.Restores = l.restores(ctx, view, published, commit, entry.Digest)
	}
	if err := l.put(ctx, Publication{Commit: commit.Hash, Set: target, Entry: &entry}); err != nil {
		if !errors.Is(err, ErrDeposed) {
			l.Observer.Failed("etcd", "Publish")
			l.report.SyncError = l.failure(l.report.SyncError, "PublishFailed", err.Error(), Retry)
		}
		return fmt.Errorf("publishing commit %s: %w", short(commit.Hash), err)
	}
	l.validated, l.stamped = set, target
	return nil
}

// stampFor stamps a set against the one published before.
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

// stamp fills in the commit that each policy of a set came from: the published
// policy's where the meaning is the same, else commit. It applies changes,
// which lead to the set, to stamped, the stamped form of what they begin with.
func stamp(stamped *schema.Set, changes []schema.Change, commit string) *schema.Set {
	var puts []*schema.Entry
	var deletes []string
	for _, change := range changes {
		if change.New == nil {
			deletes = append(deletes, change.Name)
			continue
		}
		origin := change.New.Origin
		origin.Commit = commit
		if before := stamped.Get(change.Name); before != nil && before.Hash == change.New.Hash {
			origin.Commit = before.Origin.Commit
			if origin == before.Origin {
				continue
			}
		}
		puts = append(puts, change.New.WithOrigin(origin))
	}
	if len(puts) == 0 && len(deletes) == 0 {
		return stamped
	}
	return stamped.With(puts, deletes)
}

// restored returns the newest commit with that digest which a history says was published, or empty.
func restored(history []api.HistoryEntry, digest schema.Digest) string {
	for _, entry := range history {
		if entry.Outcome == api.Applied && entry.Digest == digest {
			return entry.Commit
		}
	}
	return ""
}
