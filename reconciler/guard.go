package reconciler

import (
	"context"
	"fmt"

	"github.com/boifi/hfi/schema"
)

// GuardedSize is the size from which on a set is guarded against a commit
// that takes most of it away.
const GuardedSize = 10

// AllowPruneTrailer is what a commit's message says to let it pass the guard.
const AllowPruneTrailer = "hfi-allow-prune: true"

// guard says why a set must not be published, or nothing. A commit that
// empties a large set, or removes over half of it, is more often an accident
// than meant; it passes when a commit since the last applied one says that it
// is meant, or when it restores an earlier published state.
func (l *leadership) guard(ctx context.Context, published *State, commit Commit, set *schema.Set) (refusal string, err error) {
	if published == nil || published.Set.Len() < GuardedSize {
		return "", nil
	}
	removed := 0
	for _, change := range schema.Diff(published.Set, set) {
		if change.New == nil {
			removed++
		}
	}
	if removed*2 <= published.Set.Len() || commit.AllowPrune || restored(l.Store.History(), set.Digest()) != "" {
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
	return fmt.Sprintf("commit %s would remove %d of %d policies; if that is meant, push a commit whose message ends with the trailer %q, else revert it",
		short(commit.Hash), removed, published.Set.Len(), AllowPruneTrailer), nil
}
