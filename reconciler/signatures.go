package reconciler

import (
	"context"
	"errors"
	"fmt"

	"github.com/boifi/hfi/internal/api"
)

// VerifyMode says which commits must be signed by a trusted key, if signatures are verified.
type VerifyMode string

// The values of VerifyMode.
const (
	// VerifyHead: the branch's head. Its signature vouches for the commits before it.
	VerifyHead VerifyMode = "head"
	// VerifyAll: the head, and every commit that it reaches and the last applied one does not.
	VerifyAll VerifyMode = "all"
)

// checkKeys notes whether the trusted keys can be used. If they have changed, the
// branch's head is tried again.
func (l *leadership) checkKeys() error {
	version, err := l.Source.Keys()
	if err != nil {
		l.report.KeysError = l.failure(l.report.KeysError, api.TrustedKeysUnusable, "no new commit is applied: "+keysProblem(err), Stalled)
		version = ""
	} else {
		l.report.KeysError = nil
	}
	if version != l.keys {
		l.keys, l.handled = version, ""
	}
	return err
}

// keysProblem is an error of Source.Keys without its reason, which the status has in another field.
func keysProblem(err error) string {
	var source *SourceError
	if errors.As(err, &source) && source.Err != nil {
		return source.Err.Error()
	}
	return err.Error()
}

// withoutKeys is an attempt while the trusted keys cannot be used: a head that is
// published stays so, and another one is not read.
func (l *leadership) withoutKeys(head string, keysErr error) (outcome string, err error) {
	view := l.Store.View()
	if published := l.published(view); published != nil && published.Head.Commit == head {
		l.report.SyncError = nil
		return "", nil
	}
	message := fmt.Sprintf("commit %s is not applied: %s", short(head), keysProblem(keysErr))
	l.report.SyncError = l.failure(l.report.SyncError, api.TrustedKeysUnusable, message, Stalled)
	return failed, errors.New(message)
}

// unverified returns why a commit must not be applied, as far as signatures say, or nothing.
func (l *leadership) unverified(ctx context.Context, published *State, commit Commit) (refusal string, err error) {
	if commit.Signature == nil {
		return "", nil
	}
	refuse := func(format string, args ...any) (string, error) {
		return fmt.Sprintf("commit %s is not applied: ", short(commit.Hash)) + fmt.Sprintf(format, args...), nil
	}
	if commit.Signature.Status != api.SignatureVerified {
		return refuse("%s", describeSignature(commit.Signature))
	}
	// Nothing was applied before: the first head vouches for its past in either mode.
	if l.Verify != VerifyAll || published == nil {
		return "", nil
	}
	commits, err := askAndHeal(ctx, l, func(ctx context.Context) (Commits, error) {
		return l.Source.Since(ctx, published.Head.Commit, commit.Hash)
	})
	if err != nil {
		return "", err
	}
	for _, newer := range commits.List {
		if newer.Signature == nil || newer.Signature.Status != api.SignatureVerified {
			return refuse("commit %s, which it contains, is not verified: %s", short(newer.Hash), describeSignature(newer.Signature))
		}
	}
	switch {
	case commits.Cut:
		return refuse("more than %d commits since the last applied one, %s, would have to be verified; push fewer at a time, or start hfid with --git-verify=head", MaxSince, short(published.Head.Commit))
	case !commits.All:
		return refuse("the repository does not have all commits since the last applied one, %s (it may have been removed from the branch), so that they cannot be verified; add to that one, or start hfid with --git-verify=head", short(published.Head.Commit))
	}
	return "", nil
}

// describeSignature says in words what is known about a signature.
func describeSignature(signature *api.Signature) string {
	switch {
	case signature == nil:
		return "its signature was not checked"
	case signature.Status == api.SignatureVerified:
		return "it is signed by " + signature.Signer + " (" + signature.Key + ")"
	}
	return signature.Reason
}
