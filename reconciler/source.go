package reconciler

import (
	"context"
	"fmt"
	"time"

	"github.com/boifi/hfi/schema"
)

// Source is a branch of a git repository, and in it the folder of policies.
// Every method has a time limit of its own and honours its context. Errors
// are SourceErrors.
type Source interface {
	// Head is the full hash of the commit that the branch points to. It is
	// cheap: it fetches no object.
	Head(ctx context.Context) (string, error)
	// Delta is what differs in the policy folder between base, a commit whose
	// files the caller knows, and head. With an empty base, or one that is no
	// longer to be had, it lists all files, and its Base is empty.
	Delta(ctx context.Context, base, head string) (*Delta, error)
	// Since lists head and the commits before it, newest first, down to base
	// and without it; at most MaxSince. Where base is no ancestor of head, it
	// lists what head has and base has not.
	Since(ctx context.Context, base, head string) ([]Commit, error)
	// Changed receives a value when the branch may have moved. Several moves
	// may share one. It is nil for a source that cannot tell.
	Changed() <-chan struct{}
	// Close stops what follows the repository and waits for it.
	Close() error
}

// MaxSince bounds the commits that Source.Since lists.
const MaxSince = 1000

// Commit is what hfi needs to know of a commit.
type Commit struct {
	// Hash is the full hash in hexadecimal.
	Hash string
	// Author is NAME <EMAIL>.
	Author string
	// Subject is the message's first line.
	Subject string
	// AllowPrune says that the message carries the trailer hfi-allow-prune: true.
	AllowPrune bool
}

// Delta is the difference between two commits, or a whole commit.
type Delta struct {
	Commit Commit
	// Base is the commit that Files is relative to; if empty, Files is all
	// that there is, and what is not in it is gone.
	Base  string
	Files []schema.File
	// Warnings are about the repository, not about a policy.
	Warnings []schema.Problem
	// Close lets go of what Files' Read methods need. It is never nil.
	Close func() error
}

// Consequence is what a SourceError means for whoever meets it.
type Consequence int

const (
	// Retry: it may pass by itself; try again, ever more slowly.
	Retry Consequence = iota
	// Await: nothing is broken; the repository answered, has no such branch,
	// path or commit, and a push will mend it.
	Await
	// Mend: a person must act, on credentials, a corrupt or missing
	// repository, or the URL.
	Mend
)

// SourceError is why a source could not be read.
type SourceError struct {
	// Reason is one word in CamelCase, for status and metrics: BranchMissing.
	Reason string
	// Then is what follows from it.
	Then Consequence
	// Err says what was being done and what went wrong. It holds no credential.
	Err error
}

func (e *SourceError) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

// Validator turns deltas into sets of policies. It remembers the files of the
// last delta that it took in, so that a small delta costs little.
type Validator interface {
	// Base is the commit of the last delta taken in, or empty.
	Base() string
	// Apply takes in a delta, all of it or, when it returns an error, nothing
	// of it. An error means that no verdict was reached (a time limit, an
	// unreadable blob), not that the commit is invalid.
	Apply(ctx context.Context, delta *Delta) (*schema.Verdict, error)
}

// Clock is time.Now, or a test's.
type Clock func() time.Time
