package git

import (
	"context"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/boifi/hfi/reconciler"
)

func describe(commit *object.Commit) reconciler.Commit {
	subject, _, _ := strings.Cut(strings.TrimLeft(commit.Message, "\n"), "\n")
	return reconciler.Commit{
		Hash:       commit.Hash.String(),
		Author:     bounded(reconciler.Escape(commit.Author.Name+" <"+commit.Author.Email+">"), 200),
		Subject:    bounded(reconciler.Escape(strings.TrimSpace(subject)), 200),
		AllowPrune: allowsPrune(commit.Message),
	}
}

// bounded cuts a text to a number of characters.
func bounded(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}

// since returns the commits that head reaches and base does not. If base no
// longer exists, only head is known to be newer.
func since(ctx context.Context, o *objects, base, head string) ([]reconciler.Commit, error) {
	newest, err := o.commit(ctx, plumbing.NewHash(head))
	if err != nil {
		return nil, err
	}
	if _, err := o.commit(ctx, plumbing.NewHash(base)); err != nil {
		return []reconciler.Commit{describe(newest)}, ctx.Err()
	}
	known := map[plumbing.Hash]bool{}
	if err := walkBack(ctx, o, base, 10*reconciler.MaxSince, nil, func(c *object.Commit) { known[c.Hash] = true }); err != nil {
		return nil, err
	}
	var commits []reconciler.Commit
	err = walkBack(ctx, o, head, reconciler.MaxSince, known, func(c *object.Commit) { commits = append(commits, describe(c)) })
	return commits, err
}

// walkBack visits a commit and its ancestors breadth first, at most limit. It
// does not go beyond commits in stop or missing ones (the border of a shallow
// clone, or a rewritten history).
func walkBack(ctx context.Context, o *objects, from string, limit int, stop map[plumbing.Hash]bool, visit func(*object.Commit)) error {
	queue := []plumbing.Hash{plumbing.NewHash(from)}
	seen := map[plumbing.Hash]bool{}
	for len(queue) > 0 && limit > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		hash := queue[0]
		queue = queue[1:]
		if seen[hash] || stop[hash] {
			continue
		}
		seen[hash] = true
		commit, err := o.commit(ctx, hash)
		if err != nil {
			continue
		}
		visit(commit)
		limit--
		queue = append(queue, commit.ParentHashes...)
	}
	return nil
}
