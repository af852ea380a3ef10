package git

import (
	"bytes"
	"slices"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/git/signature"
)

// Keys implements reconciler.Source.
func (s *Source) Keys() (version string, err error) {
	keys, err := s.loadKeys()
	if keys == nil {
		return "", err
	}
	return keys.Version(), nil
}

// loadKeys returns nil if signatures are not verified.
func (s *Source) loadKeys() (*signature.Keys, error) {
	if s.Signatures == nil {
		return nil, nil
	}
	keys, err := s.Signatures.Load()
	if err != nil {
		return nil, fail(api.TrustedKeysUnusable, reconciler.Stalled, "%w", err)
	}
	return keys, nil
}

// verify checks the signature of an encoded commit.
func verify(commit *object.Commit, text []byte, keys *signature.Keys) signature.Answer {
	payload, armored, headers := splitSigned(text)
	if headers > 1 {
		return signature.Invalid("the commit has more than one signature")
	}
	// Headers with signatures are not signed, and may stand anywhere: what is signed
	// must mean what the commit means to those who read it.
	signed, err := decodeCommit(payload)
	if err != nil || !sameMeaning(commit, signed) {
		return signature.Invalid("the commit does not mean what is signed")
	}
	return keys.Verify(payload, armored, commit.Committer.When)
}

// splitSigned separates an encoded commit's signature from what it signs, byte for
// byte and as git does: what is signed lacks every header whose name begins with
// gpgsig, since one for another hash function is not signed either. headers counts
// those that the signature is from.
func splitSigned(text []byte) (payload, armored []byte, headers int) {
	const ours, others = "gpgsig ", "gpgsig"
	head, body := text, []byte(nil)
	if end := bytes.Index(text, []byte("\n\n")); end >= 0 {
		head, body = text[:end+1], text[end+1:]
	}
	payload = make([]byte, 0, len(text))
	inOurs, inOthers := false, false
	for line := range bytes.Lines(head) {
		switch {
		case line[0] == ' ' && inOurs:
			armored = append(armored, line[1:]...)
			continue
		case line[0] == ' ' && inOthers:
			continue
		case bytes.HasPrefix(line, []byte(ours)):
			inOurs, inOthers = true, false
			armored = append(armored, line[len(ours):]...)
			headers++
			continue
		}
		inOurs, inOthers = false, bytes.HasPrefix(line, []byte(others))
		if !inOthers {
			payload = append(payload, line...)
		}
	}
	return append(payload, body...), armored, headers
}

// sameMeaning compares all of two commits that hfi reads.
func sameMeaning(a, b *object.Commit) bool {
	return a.TreeHash == b.TreeHash && slices.Equal(a.ParentHashes, b.ParentHashes) && a.Message == b.Message &&
		a.Author.Name == b.Author.Name && a.Author.Email == b.Author.Email && a.Committer.When.Equal(b.Committer.When)
}
