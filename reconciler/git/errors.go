package git

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/idxfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/boifi/hfi/reconciler"
)

// explain returns a SourceError with a consequence and without credentials.
func (s *Source) explain(ctx context.Context, doing string, err error) error {
	var known *reconciler.SourceError
	if !errors.As(err, &known) {
		known = s.classify(ctx, err)
	}
	explained := *known
	explained.Err = fmt.Errorf("%s: %w", doing, s.scrub(known.Err))
	return &explained
}

func (s *Source) classify(ctx context.Context, err error) *reconciler.SourceError {
	var (
		key      *knownhosts.KeyError
		revoked  *knownhosts.RevokedError
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		badCert  *tls.CertificateVerificationError
		transfer *transferError
	)
	text := err.Error()
	switch {
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail("TimedOut", reconciler.Retry, "%s did not answer within %s", s.address.display, s.Timeout)
	case errors.Is(err, context.Canceled):
		return fail("Canceled", reconciler.Retry, "stopped: %w", err)
	case s.address.local == "" && diskFails(err):
		return s.cannotWrite(err)
	case errors.As(err, &key) && len(key.Want) == 0:
		return fail("HostKeyUnknown", reconciler.Stalled, "the host key of %s is not in the known hosts: check it and add it to --git-known-hosts-file (%w)", s.address.display, err)
	case errors.As(err, &key), errors.As(err, &revoked):
		return fail("HostKeyChanged", reconciler.Stalled, "the host key of %s differs from the known hosts: another machine may intercept the connection, or the server has a new key (%w)", s.address.display, err)
	case strings.Contains(text, "unable to authenticate"),
		errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed), errors.Is(err, transport.ErrInvalidAuthMethod):
		return fail("AuthenticationFailed", reconciler.Stalled, "%s refuses the credentials: check the token, password or key that hfid is given (%w)", s.address.display, err)
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &badCert):
		return fail("CertificateInvalid", reconciler.Stalled, "the certificate of %s is not trusted: check --git-ca-file (%w)", s.address.display, err)
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fail("RepositoryMissing", reconciler.Stalled, "there is no repository at %s, or the credentials may not see it (%w)", s.address.display, err)
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fail("RepositoryEmpty", reconciler.WaitForPush, "the repository has no commits yet: push %s", s.reference())
	case strings.Contains(text, "object-format=sha256"):
		return fail("Unsupported", reconciler.Stalled, "the repository at %s uses SHA-256, which is not supported: use one with git's default, SHA-1", s.address.display)
	case strings.Contains(text, "remote error: tls: ") && !strings.Contains(text, "internal error"):
		return fail("CertificateInvalid", reconciler.Stalled, "%s refuses the TLS connection, perhaps because it requires a client certificate: check --git-client-cert-file (%w)", s.address.display, err)
	case errors.As(err, &transfer) && !passing(err):
		return fail("UnexpectedAnswer", reconciler.Stalled, "%s returned a response that cannot be parsed: %w", s.address.display, err)
	case errors.As(err, &transfer):
		return fail("Unreachable", reconciler.Retry, "%s cannot be reached, or closed the connection mid-response: %w", s.address.display, err)
	}
	var object *reconciler.SourceError
	if errors.As(objectError(err), &object) {
		return object
	}
	if passing(err) {
		return fail("Unreachable", reconciler.Retry, "%w", err)
	}
	return fail("Unreadable", reconciler.Stalled, "%w", err)
}

// passing says whether a failure is known to be transient: the network's, or the
// system's lack of a resource.
func passing(err error) bool {
	// An url.Error is a net.Error, whatever it wraps.
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var (
		operation *net.OpError
		name      *net.DNSError
		limit     net.Error // which every error of the system implements
	)
	if errors.As(err, &operation) || errors.As(err, &name) || errors.As(err, &limit) && limit.Timeout() {
		return true
	}
	for _, known := range []error{
		io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed,
		syscall.EPIPE, syscall.ECONNRESET, syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.EINTR, syscall.ENOMEM, syscall.ESTALE, syscall.ETIMEDOUT,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	// go-git and the SSH client pass on the text alone of some errors.
	text := err.Error()
	for _, part := range []string{"EOF", "connection reset", "broken pipe", "closed network connection", "closed pipe", "http2: "} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}

// diskFails reports that a clone cannot be written because of its disk.
func diskFails(err error) bool {
	var transfer *transferError
	// go-git passes on some errors as text. During a transfer, a text may be the
	// server's, about its own disk.
	byText := !errors.As(err, &transfer)
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS} {
		if errors.Is(err, errno) || byText && strings.Contains(err.Error(), errno.Error()) {
			return true
		}
	}
	return false
}

func (s *Source) cannotWrite(err error) *reconciler.SourceError {
	return fail("DataFolderUnwritable", reconciler.Stalled, "the clone of the repository cannot be written in %s: %w", s.dataDir, err)
}

// objectError classifies an error as a missing or a damaged object.
func objectError(err error) error {
	var known *reconciler.SourceError
	switch {
	case errors.Is(err, fs.ErrPermission):
		return permissionDenied(err)
	case errors.As(err, &known), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, plumbing.ErrObjectNotFound), errors.Is(err, object.ErrEntryNotFound):
		return fail("ObjectMissing", reconciler.Retry, "an object is missing from the repository: %w; if this persists, run git fsck in it", err)
	case errors.Is(err, errDamaged), errors.Is(err, packfile.ErrInvalidObject), errors.Is(err, idxfile.ErrMalformedIdxFile), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF),
		strings.Contains(err.Error(), "zlib"), strings.Contains(err.Error(), "malformed"), strings.Contains(err.Error(), "invalid"), strings.Contains(err.Error(), "flate"):
		return fail("Corrupt", reconciler.Stalled, "an object in the repository is damaged: %w; run git fsck in it", err)
	}
	return err
}

func permissionDenied(err error) error {
	return fail("PermissionDenied", reconciler.Stalled, "the user that hfid runs as lacks a permission: %w", err)
}

// maxNamed bounds the other branches that a message names.
const maxNamed = 5

// branchMissing is the error for a repository without the branch. others are
// its branches, and isTag says whether it has a tag with the branch's name.
func (s *Source) branchMissing(others []string, isTag bool) error {
	if isTag && s.branch.IsBranch() {
		return fail("BranchMissing", reconciler.WaitForPush, "there is no %s, but a tag of that name: start hfid with --branch %s to follow it", s.reference(), s.tagOfThisName())
	}
	if len(others) == 0 {
		return fail("RepositoryEmpty", reconciler.WaitForPush, "the repository has no branches yet: push %s", s.reference())
	}
	if len(others) > maxNamed {
		others = append(others[:maxNamed:maxNamed], "…")
	}
	return fail("BranchMissing", reconciler.WaitForPush, "there is no %s (there are the branches: %s): push it, or start hfid with another --branch", s.reference(), strings.Join(others, ", "))
}

// notACommit is the error for a branch that points to something else, which git neither
// pushes nor accepts in a push.
func (s *Source) notACommit(hash string, kind plumbing.ObjectType) error {
	return fail("NotACommit", reconciler.WaitForPush, "%s points to the %s %s and not to a commit, which git fsck reports: push a commit to it; hfid follows a tag with --branch refs/tags/NAME", s.reference(), kind, hash)
}

// maxMessage bounds an error's text, in characters: it may include a server's answer.
const maxMessage = 600

var userinfo = regexp.MustCompile(`(://)[^/\s@"']+@`)

// scrubbed wraps an error and has its text without credentials.
type scrubbed struct {
	text string
	err  error
}

func (e *scrubbed) Error() string { return e.text }
func (e *scrubbed) Unwrap() error { return e.err }

func (s *Source) scrub(err error) error {
	text := userinfo.ReplaceAllString(err.Error(), "$1")
	for _, secret := range s.secrets() {
		for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret)} {
			text = strings.ReplaceAll(text, form, "…")
		}
	}
	text = bounded(reconciler.Escape(strings.Join(strings.Fields(text), " ")), maxMessage)
	return &scrubbed{text: text, err: err}
}
