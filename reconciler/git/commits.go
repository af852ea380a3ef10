package git

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/git/signature"
)

// describe describes a commit, encoded as text. keys is nil if signatures are not verified.
func describe(commit *object.Commit, text []byte, keys *signature.Keys) reconciler.Commit {
	subject, _, _ := strings.Cut(strings.TrimLeft(commit.Message, "\n"), "\n")
	described := reconciler.Commit{
		Hash:       commit.Hash.String(),
		Author:     bounded(reconciler.Escape(commit.Author.Name+" <"+commit.Author.Email+">"), 200),
		Subject:    bounded(reconciler.Escape(strings.TrimSpace(subject)), 200),
		AllowPrune: allowsPrune(commit.Message),
		Approved:   keys == nil,
	}
	if keys != nil {
		answer := verify(commit, text, keys)
		described.Signature, described.Approved = &answer.Signature, answer.Approved
	}
	return described
}

// bounded cuts a text to a number of characters.
func bounded(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}

// sinceDepths are how far the history of a base is read, in commits, to know
// which commits are older than it: mostly the base itself is met first.
var sinceDepths = []int{1, 100, 10 * reconciler.MaxSince}

// since returns the commits that head reaches and base does not. If base no longer
// exists, only head is known to be newer.
func since(ctx context.Context, o *objects, base, head string, keys *signature.Keys) (commits reconciler.Commits, err error) {
	newest, text, err := o.commitText(ctx, plumbing.NewHash(head))
	if err != nil {
		return commits, err
	}
	if _, err := o.commit(ctx, plumbing.NewHash(base)); err != nil {
		commits.List = []reconciler.Commit{describe(newest, text, keys)}
		return commits, ctx.Err()
	}
	var newer walked
	for _, depth := range sinceDepths {
		older, err := walkBack(ctx, o, base, depth, nil)
		if err != nil {
			return commits, err
		}
		known := map[plumbing.Hash]bool{}
		for _, hash := range older.commits {
			known[hash] = true
		}
		if newer, err = walkBack(ctx, o, head, reconciler.MaxSince, known); err != nil {
			return commits, err
		}
		// A commit without parents is older than base, unless all that is older is known.
		if newer.complete() && (!newer.root || older.complete()) {
			break
		}
	}
	for _, hash := range newer.commits {
		commit, text, err := o.commitText(ctx, hash)
		if err != nil {
			return commits, err
		}
		commits.List = append(commits.List, describe(commit, text, keys))
	}
	commits.All, commits.Cut = newer.complete(), newer.cut
	return commits, nil
}

// walked are commits found by walkBack.
type walked struct {
	commits []plumbing.Hash
	// cut: there are more than the limit. missing: a commit could not be read. root: a commit has no parent.
	cut, missing, root bool
}

func (w *walked) complete() bool { return !w.cut && !w.missing }

// walkBack lists a commit and its ancestors breadth first, at most limit. It
// does not go beyond commits in stop or missing ones (the border of a shallow
// clone, or a rewritten history).
func walkBack(ctx context.Context, o *objects, from string, limit int, stop map[plumbing.Hash]bool) (walked, error) {
	var w walked
	queue := []plumbing.Hash{plumbing.NewHash(from)}
	seen := map[plumbing.Hash]bool{}
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return w, err
		}
		hash := queue[0]
		queue = queue[1:]
		if seen[hash] || stop[hash] {
			continue
		}
		if len(w.commits) == limit {
			w.cut = true
			break
		}
		seen[hash] = true
		commit, err := o.commit(ctx, hash)
		if err != nil {
			w.missing = true
			continue
		}
		w.commits = append(w.commits, hash)
		w.root = w.root || len(commit.ParentHashes) == 0
		queue = append(queue, commit.ParentHashes...)
	}
	return w, nil
}
