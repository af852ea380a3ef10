// Package git reads a policy folder from a branch of a git repository: a local
// one in place, with pushes detected by file system events, or a remote one
// through a shallow clone of the branch. It uses go-git for the git protocol, for
// the parts of packs and to decode commits; comments say why it does the rest itself.
package git

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/git/signature"
)

// Defaults of a Source's tunables.
const (
	DefaultTimeout    = time.Minute
	DefaultMaxFetches = 50
	// DefaultMaxRefs and DefaultMaxFetch are in bytes.
	DefaultMaxRefs  = 64 << 20
	DefaultMaxFetch = 4 << 30
)

// closeLimit bounds the wait of Close for operations that it canceled.
const closeLimit = 10 * time.Second

// Source implements reconciler.Source.
type Source struct {
	// Timeout bounds each operation.
	Timeout time.Duration
	// MaxRefs bounds a remote's list of its branches and tags and all else that it
	// sends beside packs, and MaxFetch a pack, in bytes.
	MaxRefs, MaxFetch int64
	// MaxFetches is the number of fetches after which the clone of a remote is
	// replaced, so that its disk use follows the branch's size and not its pushes.
	MaxFetches int

	// TokenFile holds a bearer token for HTTP; Username and PasswordFile are
	// for basic authentication. The files are read for each operation, so
	// that they may be replaced while the daemon runs.
	TokenFile, Username, PasswordFile string
	// SSHKeyFile, SSHPassphraseFile (if the key is encrypted) and KnownHostsFile
	// are for SSH. Without the last no host is trusted.
	SSHKeyFile, SSHPassphraseFile, KnownHostsFile string
	// CABundleFile adds certificate authorities for HTTPS, in PEM.
	CABundleFile string
	// ClientCertFile and ClientKeyFile are this client's certificate for HTTPS
	// and its key, in PEM. One file may have both.
	ClientCertFile, ClientKeyFile string
	// Signatures has the keys that commits are verified with; nil: they are not verified.
	Signatures *signature.Files
	Logger     *slog.Logger

	address    address
	packLimits packLimits
	// branch is the reference that is followed.
	branch plumbing.ReferenceName
	// folder is the policy folder without slashes at its ends; empty is the root.
	folder  string
	dataDir string

	changed chan struct{}
	// ctx is the parent of every operation's context. Close cancels it.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	// starting is held while a task starts, so that none starts while Close waits.
	starting sync.Mutex
	// operations bounds the running operations, including those that timed out and have not returned.
	operations chan struct{}

	trees       trees
	credentials credentials
	connections httpConnections
	hosts       knownHosts
	pause       pause

	// mu guards what follows.
	mu     sync.Mutex
	local  *objects
	remote *clone
	// tag is the last annotated tag that a local reference pointed to, and
	// tagged its commit.
	tag, tagged plumbing.Hash
}

// New returns a source. url is a folder, a file: URL, or a URL for HTTP, HTTPS
// or SSH (also in the form USER@HOST:PATH). branch is the name of a branch, or a
// full reference such as refs/tags/v1. policyPath is the policy folder,
// "." for the whole repository. dataDir is a folder
// for the source's exclusive use.
func New(url, branch, policyPath, dataDir string) *Source {
	folder := strings.Trim(path.Clean("/"+policyPath), "/")
	reference := plumbing.ReferenceName(branch)
	if !strings.HasPrefix(branch, "refs/") {
		// Never a tag too: a branch that is deleted must not become an older tag.
		reference = plumbing.NewBranchReferenceName(branch)
	}
	return &Source{
		Timeout: DefaultTimeout, MaxFetches: DefaultMaxFetches, MaxRefs: DefaultMaxRefs, MaxFetch: DefaultMaxFetch, Logger: slog.Default(),
		address: parseAddress(url), packLimits: defaultPackLimits, branch: reference,
		folder: folder, dataDir: dataDir, operations: make(chan struct{}, 8),
	}
}

// Open starts watching a local repository. A repository that does not exist yet
// is not an error: Head reports it, and finds it once it exists.
func (s *Source) Open(context.Context) error {
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.address.local == "" {
		s.clearLeftovers()
		return nil
	}
	s.changed = make(chan struct{}, 1)
	s.tasks.Go(func() { s.watch(s.ctx) })
	return nil
}

// Close stops watching, cancels running operations and waits for them, up to
// closeLimit. No other method may be called after it.
func (s *Source) Close() error {
	if s.cancel == nil {
		return nil
	}
	s.starting.Lock()
	s.cancel()
	s.starting.Unlock()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.tasks.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(closeLimit):
		return fmt.Errorf("operations on %s still run %s after they were canceled", s.address.display, closeLimit)
	}
	s.connections.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local != nil {
		s.local.retire()
		s.local = nil
	}
	if s.remote != nil {
		s.remote.objects.retire()
		s.remote = nil
	}
	return nil
}

// Changed is nil for a remote repository.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// DisplayURL is the repository's address without credentials.
func (s *Source) DisplayURL() string { return s.address.display }

// Head implements reconciler.Source.
func (s *Source) Head(ctx context.Context) (string, error) {
	return guarded(ctx, s, "reading the branch", nil, func(ctx context.Context) (string, error) {
		if s.address.local == "" {
			return s.remoteHead(ctx)
		}
		gitFolder, err := checkedFolder(s.address.local)
		if err != nil {
			return "", err
		}
		head, err := s.localHead(gitFolder)
		if err != nil || s.branch.IsBranch() {
			return head, err
		}
		return s.peel(ctx, head)
	})
}

// Delta implements reconciler.Source.
func (s *Source) Delta(ctx context.Context, base, head string) (*reconciler.Delta, error) {
	return guarded(ctx, s, "reading commit "+head, dropDelta, func(ctx context.Context) (*reconciler.Delta, error) {
		if s.address.local == "" {
			return s.remoteDelta(ctx, base, head)
		}
		o, err := s.localObjects()
		if err != nil {
			return nil, err
		}
		defer o.release()
		return s.delta(ctx, o, base, head)
	})
}

func dropDelta(delta *reconciler.Delta) { _ = delta.Close() }

// Since implements reconciler.Source.
func (s *Source) Since(ctx context.Context, base, head string) (reconciler.Commits, error) {
	return guarded(ctx, s, "reading the commits since "+base, nil, func(ctx context.Context) (newer reconciler.Commits, err error) {
		keys, err := s.loadKeys()
		if err != nil {
			return newer, err
		}
		if s.address.local == "" {
			return s.remoteSince(ctx, base, head, keys)
		}
		o, err := s.localObjects()
		if err != nil {
			return newer, err
		}
		defer o.release()
		return since(ctx, o, base, head, keys)
	})
}

// HasFolder implements reconciler.Source.
func (s *Source) HasFolder(ctx context.Context, commit string) (bool, error) {
	has, err := guarded(ctx, s, "reading commit "+commit, nil, func(ctx context.Context) (bool, error) {
		if s.address.local == "" {
			return s.remoteHasFolder(ctx, commit)
		}
		o, err := s.localObjects()
		if err != nil {
			return false, err
		}
		defer o.release()
		return s.hasFolder(ctx, o, commit)
	})
	if known := (*reconciler.SourceError)(nil); errors.As(err, &known) && (known.Reason == "ObjectMissing" || known.Reason == notAFolder) {
		return false, nil
	}
	return has, err
}

// guarded runs an operation with the source's Timeout. go-git does not honour
// its context everywhere, and panics on some damaged objects: guarded returns
// in time nevertheless, and turns a panic into an error. drop is called with a
// value that comes too late.
func guarded[T any](ctx context.Context, s *Source, doing string, drop func(T), operation func(context.Context) (T, error)) (T, error) {
	var none T
	if s.address.problem != "" {
		return none, fail("Unsupported", reconciler.Stalled, "%s: %s", doing, s.address.problem)
	}
	if err := s.pause.check(); err != nil {
		return none, s.explain(ctx, doing, err)
	}
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	select {
	case s.operations <- struct{}{}:
	case <-ctx.Done():
		cancel()
		if s.ctx.Err() != nil || !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return none, s.explain(ctx, doing, context.Canceled)
		}
		return none, fail("TimedOut", reconciler.Retry, "%s: earlier operations on %s still run", doing, s.address.display)
	}
	unlink := context.AfterFunc(s.ctx, cancel)
	type result struct {
		value T
		err   error
	}
	results, left := make(chan result), make(chan struct{})
	s.starting.Lock()
	if s.ctx.Err() != nil {
		s.starting.Unlock()
		unlink()
		cancel()
		<-s.operations
		return none, s.explain(ctx, doing, context.Canceled)
	}
	s.tasks.Go(func() {
		defer func() { <-s.operations }()
		var r result
		func() {
			defer func() {
				if cause := recover(); cause != nil {
					s.Logger.Error("reading the repository panicked", "operation", doing, "panic", cause, "stack", string(debug.Stack()))
					r = result{err: fail("Corrupt", reconciler.Stalled, "the repository cannot be read: %v; run git fsck in it", cause)}
				}
			}()
			r.value, r.err = operation(ctx)
		}()
		select {
		case results <- r:
		case <-left:
			if r.err == nil && drop != nil {
				drop(r.value)
			}
		}
	})
	s.starting.Unlock()
	defer unlink()
	defer cancel()
	defer close(left)
	select {
	case r := <-results:
		if r.err != nil {
			return none, s.explain(ctx, doing, r.err)
		}
		return r.value, nil
	case <-ctx.Done():
		return none, s.explain(ctx, doing, context.Cause(ctx))
	}
}

func fail(reason string, then reconciler.Consequence, format string, args ...any) *reconciler.SourceError {
	return &reconciler.SourceError{Reason: reason, Consequence: then, Err: fmt.Errorf(format, args...)}
}
