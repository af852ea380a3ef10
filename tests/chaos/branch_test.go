package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// branch is the branch main and every commit that it has pointed to. Only the test's
// goroutine moves it; the observer reads it concurrently.
type branch struct {
	t      *testing.T
	repo   *gittest.Repo
	oracle *oracle
	random *rand.Rand
	script *transcript
	// commits counts the commits, so that no two are equal.
	commits int

	mu sync.Mutex
	// refs has the commits that the branch has pointed to, in order. A commit is added
	// before it is pushed, because the daemon may serve it before git exits.
	refs []string
	// trees has the tree of each commit.
	trees map[string]string
}

// first creates the branch with a valid commit.
func (b *branch) first() {
	b.t.Helper()
	b.trees = map[string]string{}
	b.push(b.commit("", b.anyValid(), false), "the first commit")
}

// move pushes a commit, valid or not, or a revert, or force-pushes an earlier commit or
// another history.
func (b *branch) move() {
	b.t.Helper()
	tip := b.tip()
	switch draw := b.random.IntN(100); {
	case draw < 55:
		b.push(b.commit(tip, b.any(), b.random.IntN(2) == 0), "commit")
	case draw < 70:
		b.revert(tip)
	case draw < 85:
		b.push(b.ancestor(tip), "forced, back")
	default:
		b.push(b.commit(b.ancestor(tip), b.any(), b.random.IntN(2) == 0), "forced, another history")
	}
}

// last pushes a valid commit that is not refused.
func (b *branch) last() string {
	b.t.Helper()
	commit := b.commit(b.tip(), b.anyValid(), true)
	b.push(commit, "the last commit")
	return commit
}

func (b *branch) any() string { return b.oracle.trees[b.random.IntN(len(b.oracle.trees))] }

func (b *branch) anyValid() string { return b.oracle.valid[b.random.IntN(len(b.oracle.valid))] }

// commit makes a commit of a tree. It may allow pruning in the message.
func (b *branch) commit(parent, tree string, prune bool) string {
	b.t.Helper()
	b.commits++
	message := fmt.Sprintf("Change %d\n\nBody.\n", b.commits)
	if prune {
		message += "\nhfi-allow-prune: true\n"
	}
	arguments := []string{"commit-tree", tree}
	if parent != "" {
		arguments = append(arguments, "-p", parent)
	}
	return b.repo.GitInput(message, arguments...)
}

// revert reverts the tip with git revert, if it changed anything.
func (b *branch) revert(tip string) {
	b.t.Helper()
	parents := b.repo.Git("rev-list", "--parents", "-n", "1", tip)
	if len(parents) < 81 || b.tree(tip) == b.tree(parents[41:81]) {
		b.push(b.commit(tip, b.anyValid(), true), "commit, there being nothing to revert")
		return
	}
	b.repo.Git("reset", "-q", "--hard", tip)
	b.push(b.repo.Revert(tip), "revert")
}

// ancestor returns a commit up to three before the tip.
func (b *branch) ancestor(commit string) string {
	b.t.Helper()
	for range 1 + b.random.IntN(3) {
		if line := b.repo.Git("rev-list", "--parents", "-n", "1", commit); len(line) >= 81 {
			commit = line[41:81]
		}
	}
	return commit
}

func (b *branch) push(commit, how string) {
	b.t.Helper()
	tree := b.repo.Git("rev-parse", commit+"^{tree}")
	expected, known := b.oracle.sets[tree]
	if !known {
		b.t.Fatalf("%s made a tree that cue has not validated: the test is wrong", how)
	}
	validity := "valid"
	if expected == "" {
		validity = "invalid"
	}
	b.mu.Lock()
	b.trees[commit] = tree
	b.refs = append(b.refs, commit)
	number := len(b.refs) - 1
	b.mu.Unlock()
	b.script.note("push ref %d: %s, %s, %s", number, short(commit), how, validity)
	b.repo.Git("push", "-q", "--force", "origin", commit+":refs/heads/main")
}

// tip returns the current commit of the branch.
func (b *branch) tip() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refs[len(b.refs)-1]
}

// next returns the index of a commit in refs, at or after another index, or -1.
func (b *branch) next(commit string, from int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.refs[from:], commit); i >= 0 {
		return from + i
	}
	return -1
}

// tree returns the tree of a commit, or "" if it was not pushed.
func (b *branch) tree(commit string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trees[commit]
}

func (b *branch) length() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.refs)
}

func (b *branch) validPushed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	count := 0
	for _, commit := range b.refs {
		if b.oracle.sets[b.trees[commit]] != "" {
			count++
		}
	}
	return count
}

func short(commit string) string { return commit[:min(10, len(commit))] }
