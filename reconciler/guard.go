package reconciler

import (
	"context"
	"fmt"

	"github.com/boifi/hfi/schema"
)

// GuardedSize is the number of policies from which on a set is guarded against
// a commit that removes most of it.
const GuardedSize = 10

// AllowPruneTrailer is the trailer of a commit message that lets a commit pass the guard.
const AllowPruneTrailer = "hfi-allow-prune: true"

// guard returns why a set must not be published, or nothing. A commit that
// empties a large set, or removes over half of it, is more often an accident
// than intended. It passes when a commit since the last applied one has the
// trailer, or when it restores an earlier published state.
func (l *leadership) guard(ctx context.Context, view *StoreView, commit Commit, set *schema.Set) (refusal string, err error) {
	published := l.published(view)
	if published == nil || published.Set.Len() < GuardedSize {
		return "", nil
	}
	removed := 0
	for _, change := range schema.Diff(published.Set, set) {
		if change.New == nil {
			removed++
		}
	}
	if removed*2 <= published.Set.Len() || commit.AllowPrune || restored(view.History, set.Digest()) != "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	commits, err := l.Source.Since(ctx, published.Head.Commit, commit.Hash)
	if err != nil {
		return "", l.sourceFailed(err)
	}
	for _, earlier := range commits {
		if earlier.AllowPrune {
			return "", nil
		}
	}
	return fmt.Sprintf("commit %s would remove %d of %d policies; if that is intended, push a commit whose message ends with the trailer %q, else revert it",
		short(commit.Hash), removed, published.Set.Len(), AllowPruneTrailer), nil
}
