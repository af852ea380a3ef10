package reconciler

import (
	"context"
	"fmt"
	"slices"

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
// trailer and may have it (Commit.Approved), or when it restores an earlier
// published state. No policies at all is no such state: many a repository begins
// with none.
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
	if removed*2 <= published.Set.Len() || commit.AllowPrune && commit.Approved ||
		set.Len() > 0 && l.restores(ctx, view, published, commit, set.Digest()) != "" {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	commits, err := l.Source.Since(ctx, published.Head.Commit, commit.Hash)
	if err != nil {
		return "", l.sourceFailed(err)
	}
	ignored := ""
	for _, earlier := range commits.List {
		if !earlier.AllowPrune {
			continue
		}
		if earlier.Approved {
			return "", nil
		}
		ignored = fmt.Sprintf("; the trailer of commit %s does not count, because no approver (--git-approvers) signed it: %s", short(earlier.Hash), describeSignature(earlier.Signature))
	}
	return fmt.Sprintf("commit %s would remove %d of %d policies; if that is intended, push a commit whose message ends with the trailer %q, else revert it%s",
		short(commit.Hash), removed, published.Set.Len(), AllowPruneTrailer, ignored), nil
}

// restores returns the commit of an earlier published state with that digest,
// which a commit restores, or empty. Another writer can forge the history in the
// store, so it counts only what this term has published itself, or what git
// confirms: the commit is one of those before the published one, and its files
// are the same.
func (l *leadership) restores(ctx context.Context, view *StoreView, published *State, commit Commit, digest schema.Digest) string {
	if commit, known := l.earlier.commits[digest]; known {
		return commit
	}
	earlier := restored(view.History, digest)
	if earlier == "" || published == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, l.StepTimeout)
	defer cancel()
	later, err := l.Source.Since(ctx, published.Head.Commit, earlier)
	if err == nil && len(later.List) == 0 {
		var delta *Delta
		if delta, err = l.Source.Delta(ctx, earlier, commit.Hash); err == nil {
			same := delta.Base == earlier && len(delta.Files) == 0
			if err := delta.Close(); err == nil && same {
				return earlier
			}
		}
	}
	l.Logger.Warn("the history names an earlier commit with the same policies, which git does not confirm; it does not count",
		"earlier", Cut(earlier, 64), "commit", commit.Hash, "error", err)
	return ""
}

// publishedSets are the sets that a term has published, for the guard.
type publishedSets struct {
	// digests are at most MaxHistory, oldest first; commits has the last commit of each.
	digests []schema.Digest
	commits map[schema.Digest]string
}

func (s *publishedSets) add(head Head) {
	if at := slices.Index(s.digests, head.Digest); at >= 0 {
		s.digests = slices.Delete(s.digests, at, at+1)
	} else if len(s.digests) == MaxHistory {
		delete(s.commits, s.digests[0])
		s.digests = slices.Delete(s.digests, 0, 1)
	}
	if s.commits == nil {
		s.commits = map[schema.Digest]string{}
	}
	s.digests = append(s.digests, head.Digest)
	s.commits[head.Digest] = head.Commit
}
