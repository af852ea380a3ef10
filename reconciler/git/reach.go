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

// access is what a connection to the server needs.
type access struct {
	auth    transport.AuthMethod
	bundle  []byte
	dialing transport.ProxyOptions
}

// transferError is an error of the exchange with a server. What is malformed
// in it says nothing about the repository: the connection may have been cut.
type transferError struct{ err error }

func (e *transferError) Error() string { return e.err.Error() }
func (e *transferError) Unwrap() error { return e.err }

// reach calls use with credentials read afresh. Servers differ in how they
// take a token: where one way is refused, the other is tried, and what was
// taken is remembered.
func (s *Source) reach(ctx context.Context, use func(access) error) error {
	err := s.reachOnce(ctx, use)
	refused := errors.Is(err, transport.ErrAuthenticationRequired) || errors.Is(err, transport.ErrAuthorizationFailed)
	if refused && s.TokenFile != "" && !s.address.ssh && ctx.Err() == nil {
		before := s.credentials.tokenAsPassword.Load()
		s.credentials.tokenAsPassword.Store(!before)
		if err = s.reachOnce(ctx, use); err != nil {
			s.credentials.tokenAsPassword.Store(before)
		}
	}
	return err
}

func (s *Source) reachOnce(ctx context.Context, use func(access) error) error {
	var a access
	var err error
	if a.auth, err = s.auth(); err != nil {
		return err
	}
	if a.bundle, err = s.caBundle(); err != nil {
		return fail("CertificateInvalid", reconciler.Stalled, "%w", err)
	}
	if s.address.ssh {
		var release func()
		a.dialing, release = boundDialing(ctx)
		defer release()
	}
	if err := use(a); err != nil {
		return &transferError{err}
	}
	return nil
}

// tokenUser is the user that goes with a token where it is given as a password.
// The servers that want it so take any name.
const tokenUser = "x-access-token"

// credentials is what is remembered of them between operations.
type credentials struct {
	// tokenAsPassword says that the server takes the token by basic authentication and not as a bearer's.
	tokenAsPassword atomic.Bool

	mu sync.Mutex
	// used are the newest secrets read, which must appear in no message: the
	// files may hold others by now.
	used []string
}

// maxUsed bounds the secrets remembered; older ones are in no message any more.
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
