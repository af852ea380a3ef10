package git

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/boifi/hfi/reconciler"
)

// operation is an operation on a server, and the first problem of which it is
// known what is wrong. go-git's own errors do not say that.
type operation struct {
	source *Source

	mu      sync.Mutex
	problem error
	// limit bounds what is read of the server, in bytes, and read is how much that was.
	limit, read int64
}

// received counts what the server sent, and returns an error once it is too much.
func (o *operation) received(bytes int64) error {
	o.mu.Lock()
	o.read += bytes
	limit, exceeded := o.limit, o.read > o.limit
	o.mu.Unlock()
	if exceeded {
		// The SSH client may pass on no more than the end of the connection.
		return o.tooLarge(limit)
	}
	return nil
}

// packBegins raises the limit from what is kept in memory to what is written to a file.
func (o *operation) packBegins() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.limit += o.source.MaxFetch
}

func (o *operation) note(problem error) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.problem == nil {
		o.problem = problem
	}
	return problem
}

// noted returns the first problem, or nil.
func (o *operation) noted() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.problem
}

// tooLarge notes that the server sends more than limit bytes.
func (o *operation) tooLarge(limit int64) error {
	return o.note(fail("AnswerTooLarge", reconciler.Stalled, "%s sends more than %d MiB: check the URL", o.source.address.display, limit>>20))
}

// access is the configuration of a connection to the server.
type access struct {
	operation *operation
	auth      transport.AuthMethod
	dialing   transport.ProxyOptions
}

// transferError is an error of the exchange with a server. Malformed data in it
// does not mean that the repository is damaged: the connection may have broken.
type transferError struct{ err error }

func (e *transferError) Error() string { return e.err.Error() }
func (e *transferError) Unwrap() error { return e.err }

// withAccess calls use with current credentials. Servers accept a token as a
// bearer token or as a password: if one is refused, withAccess tries the other,
// and remembers which was accepted.
func (s *Source) withAccess(ctx context.Context, use func(access) error) error {
	err := s.withAccessOnce(ctx, use)
	refused := errors.Is(err, transport.ErrAuthenticationRequired) || errors.Is(err, transport.ErrAuthorizationFailed)
	if refused && s.TokenFile != "" && s.address.ssh == nil && ctx.Err() == nil {
		before := s.credentials.tokenAsPassword.Load()
		s.credentials.tokenAsPassword.Store(!before)
		if err = s.withAccessOnce(ctx, use); err != nil {
			s.credentials.tokenAsPassword.Store(before)
		}
	}
	return err
}

func (s *Source) withAccessOnce(ctx context.Context, use func(access) error) error {
	auth, err := s.auth()
	if err != nil {
		return err
	}
	o := &operation{source: s, limit: s.MaxRefs}
	settings := access{auth: auth, operation: o}
	if s.address.ssh != nil {
		dialing, release := boundDialing(ctx, o)
		defer release()
		settings.dialing = dialing
	} else {
		connections, err := s.httpTransport()
		if err != nil {
			return err
		}
		settings.auth = &httpOperation{operation: o, auth: auth, next: connections}
	}
	err = use(settings)
	switch noted := o.noted(); {
	case err == nil:
		return nil
	case noted != nil:
		return noted
	}
	return &transferError{err}
}

// tokenUser is the user name for a token that is sent as a password. Servers
// that accept that ignore the name.
const tokenUser = "x-access-token"

// credentials is the state of authentication between operations.
type credentials struct {
	// tokenAsPassword is set if the server accepts the token by basic authentication only.
	tokenAsPassword atomic.Bool

	mu sync.Mutex
	// used are the newest secrets read, which must not appear in a message even
	// after their files were replaced.
	used []string
}

// maxUsed bounds used. No message has older secrets any more.
const maxUsed = 16

func (c *credentials) remember(secret string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.used, secret) {
		return
	}
	c.used = append(c.used, secret)
	if len(c.used) > maxUsed {
		c.used = slices.Delete(c.used, 0, 1)
	}
}

func (c *credentials) secrets() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.used)
}
