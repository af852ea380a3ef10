package reconciler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Source is a branch of a git repository, and in it the folder of policies. Every
// method has its own time limit and honours its context. Errors are SourceErrors.
type Source interface {
	// Head is the full hash of the commit that the branch points to. It is
	// cheap: it fetches no object.
	Head(ctx context.Context) (string, error)
	// Delta is the difference of the policy folder between base, a commit whose files
	// the caller knows, and head. If base is empty or no longer available, it lists all
	// files, and its Base is empty.
	Delta(ctx context.Context, base, head string) (*Delta, error)
	// Since lists head and the commits before it, newest first, down to base
	// and without it; at most MaxSince. If base is no ancestor of head, it lists
	// the ancestors of head that base does not have.
	Since(ctx context.Context, base, head string) (Commits, error)
	// Keys identifies the keys that signatures of commits are verified with, and
	// differs when they have changed. It is empty if signatures are not verified. The
	// error says why the keys cannot be used: Delta and Since fail then.
	Keys() (version string, err error)
	// HasFolder says whether a commit that the branch has, or had, is in the
	// repository and has the policy folder. It may fetch the branch's history.
	HasFolder(ctx context.Context, commit string) (bool, error)
	// Changed receives a value when the branch may have moved; several moves
	// may give one value. It is nil for a source that cannot detect them.
	Changed() <-chan struct{}
	// Close stops following the repository, and returns when that has ended.
	Close() error
}

// MaxSince bounds the commits that Source.Since lists.
const MaxSince = 1000

// Commit is what hfi needs to know about a commit.
type Commit struct {
	// Hash is the full hash in hexadecimal.
	Hash string
	// Author is NAME <EMAIL>.
	Author string
	// Subject is the message's first line.
	Subject string
	// AllowPrune says that the message carries the trailer hfi-allow-prune: true.
	AllowPrune bool
	// Signature is nil if signatures are not verified.
	Signature *api.Signature
	// Approved says that the trailers of the message count: signatures are not
	// verified, or an approver signed it.
	Approved bool
}

// Commits are some of a branch.
type Commits struct {
	List []Commit
	// All says that none is missing, and Cut that there are more than MaxSince. With
	// neither, the repository lacks some, or does not say which are asked for.
	All, Cut bool
}

// Delta is the difference between two commits, or a whole commit.
type Delta struct {
	Commit Commit
	// Base is the commit that Files is relative to. If it is empty, Files are
	// all files of Commit.
	Base  string
	Files []schema.File
	// Missing is a SourceError if Commit has no policy folder, else nil. Files
	// then has deletions only.
	Missing error
	// Warnings are about the repository, not about a policy.
	Warnings []schema.Problem
	// Close releases what Files' Read methods need. It is never nil.
	Close func() error
}

// Consequence is what follows from a failure.
type Consequence int

const (
	// Retry: the failure may pass by itself; the same attempt is made again, at growing intervals.
	Retry Consequence = iota
	// WaitForPush: the repository answered, but has no such branch, path or
	// commit, or the commit is not valid. A push resolves it, a retry does not.
	WaitForPush
	// Stalled: manual action is required, on credentials, the URL, or a corrupt
	// or missing repository.
	Stalled
)

// SourceError is why a source could not be read.
type SourceError struct {
	// Reason is one word in CamelCase, for status and metrics: BranchMissing.
	Reason string
	// Consequence is what follows from the failure.
	Consequence Consequence
	// Err says what was being done and what went wrong. It contains no credential.
	Err error
}

func (e *SourceError) Error() string { return fmt.Sprintf("%s: %v", e.Reason, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

// Validator turns deltas into sets of policies. It remembers the files of the
// last delta applied, so that a small delta costs little.
type Validator interface {
	// Base is the commit of the last delta applied. It is empty if there is none, or
	// if the next delta must be a whole commit.
	Base() string
	// Apply applies a delta, all of it or, when it returns an error, nothing
	// of it. An error means that no verdict was reached (a time limit, an
	// unreadable blob), not that the commit is invalid. ErrWholeCommit means that the
	// delta must have all files of the commit.
	Apply(ctx context.Context, delta *Delta) (*schema.Verdict, error)
	// Stale reports that the last verdict may be another now, although the commit is the same.
	Stale() bool
}

// ErrWholeCommit is Validator.Apply's error for a delta that changes how all files are
// validated. Base is empty then.
var ErrWholeCommit = errors.New("all files of the commit must be validated")

// Clock is time.Now, or a test's.
type Clock func() time.Time
