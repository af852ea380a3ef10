package signature

import (
	"bytes"
	"encoding/pem"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"github.com/boifi/hfi/internal/api"
)

// namespace is that of git's signatures. A signature for another purpose has another.
const namespace = "git"

// verifySSH checks a signature as ssh-keygen -Y verify does for one of the key's
// principals, with the options namespace and verify-time.
func (k *Keys) verifySSH(text, armored []byte, at time.Time) Answer {
	block, rest := pem.Decode(armored)
	if block == nil || block.Type != sshsig.PEMType || len(bytes.TrimSpace(rest)) > 0 {
		return Invalid("the SSH signature is malformed: it must be one armored signature")
	}
	signature, err := sshsig.ParseSignature(block.Bytes)
	if err != nil {
		return Invalid("the SSH signature cannot be read: %v", err)
	}
	certificate, certified := signature.PublicKey.(*ssh.Certificate)
	plain := signature.PublicKey
	if certified {
		plain = certificate.Key
	}
	fingerprint := ssh.FingerprintSHA256(plain)
	if len(k.signers) == 0 {
		return answer(api.SignatureUnknownKey, "", fingerprint, "it is signed with the SSH key %s, and no allowed signers are configured", fingerprint)
	}
	if !slices.Contains(keyTypes, plain.Type()) || signature.Signature.Format == ssh.KeyAlgoRSA {
		return Invalid("signatures with %s are not supported", signature.Signature.Format)
	}
	// Only a key that is in the file is worth a calculation.
	var lines []signer
	for _, line := range k.signers {
		if line.authority && certified && sameKey(line.key, certificate.SignatureKey) || !line.authority && !certified && sameKey(line.key, plain) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 && certified {
		authority := ssh.FingerprintSHA256(certificate.SignatureKey)
		return answer(api.SignatureUnknownKey, "", fingerprint, "unknown certificate authority %s of the key %s", authority, fingerprint)
	}
	if len(lines) == 0 {
		return answer(api.SignatureUnknownKey, "", fingerprint, "unknown key %s", fingerprint)
	}
	switch err := sshsig.Verify(bytes.NewReader(text), signature, signature.PublicKey, signature.HashAlgorithm, namespace); {
	case errors.Is(err, sshsig.ErrNamespaceMismatch):
		return answer(api.SignatureInvalid, "", fingerprint, "the signature is for the namespace %q, not %q", signature.Namespace, namespace)
	case err != nil:
		return answer(api.SignatureInvalid, "", fingerprint, "bad signature by the key %s", fingerprint)
	}
	var failure *Answer
	name, approved := "", len(k.approvers) == 0
	for _, line := range lines {
		principals, problem := line.allows(certificate, fingerprint, at)
		if problem != nil {
			failure = problem
			continue
		}
		if name == "" {
			name = principals
		}
		approved = approved || slices.ContainsFunc(k.approvers, func(approver string) bool {
			return approver == fingerprint || line.is(certificate, approver)
		})
	}
	if name == "" {
		return *failure
	}
	return verified(name, fingerprint, approved)
}

func sameKey(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }

// is reports whether a line, which allows a signature, allows it for that principal.
func (s *signer) is(certificate *ssh.Certificate, principal string) bool {
	return matchList(principal, s.principals) && (certificate == nil || slices.Contains(certificate.ValidPrincipals, principal))
}

// allows returns the principals, separated by commas, for which a line allows a
// signature made at a time, or why it does not allow it. certificate is nil for a plain key.
func (s *signer) allows(certificate *ssh.Certificate, fingerprint string, at time.Time) (string, *Answer) {
	refuse := func(status api.SignatureStatus, format string, args ...any) (string, *Answer) {
		a := answer(status, s.principals, fingerprint, format, args...)
		return "", &a
	}
	principals := s.principals
	if certificate != nil {
		var names []string
		for _, name := range certificate.ValidPrincipals {
			if matchList(name, s.principals) {
				names = append(names, name)
			}
		}
		principals = strings.Join(names, ",")
		switch err := checkCertificate(certificate, names, at); {
		case certificate.CertType != ssh.UserCert:
			return refuse(api.SignatureUnknownKey, "the certificate of the key %s is not a user's", fingerprint)
		case len(names) == 0:
			return refuse(api.SignatureUnknownKey, "the certificate of the key %s names no principal that matches %s", fingerprint, s.principals)
		case !certificateCovers(certificate, at):
			return refuse(api.SignatureExpired, "the certificate of the key %s was not valid at %s, when the commit was made", fingerprint, stamp(at))
		case err != nil:
			return refuse(api.SignatureInvalid, "the certificate of the key %s is not accepted: %v", fingerprint, err)
		}
	}
	switch {
	case s.namespaces != "" && !matchList(namespace, s.namespaces):
		return refuse(api.SignatureUnknownKey, "the key %s of %s is allowed for the namespaces %s, not for %s", fingerprint, s.principals, s.namespaces, namespace)
	case !s.validAfter.IsZero() && at.Before(s.validAfter):
		return refuse(api.SignatureNotYetValid, "the key %s of %s is valid from %s on, and the commit was made at %s", fingerprint, s.principals, stamp(s.validAfter), stamp(at))
	case !s.validBefore.IsZero() && at.After(s.validBefore):
		return refuse(api.SignatureExpired, "the key %s of %s expired at %s, and the commit was made at %s", fingerprint, s.principals, stamp(s.validBefore), stamp(at))
	}
	return principals, nil
}

// checkCertificate checks a certificate of an authority that is trusted.
func checkCertificate(certificate *ssh.Certificate, principals []string, at time.Time) error {
	if certificate.Signature.Format == ssh.KeyAlgoRSA {
		return errors.New("the authority signed it with SHA-1")
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return at }}
	for _, principal := range principals {
		if err := checker.CheckCert(principal, certificate); err != nil {
			return err
		}
	}
	return nil
}

// certificateCovers reports whether a time is in a certificate's period of validity.
func certificateCovers(certificate *ssh.Certificate, at time.Time) bool {
	seconds := uint64(max(at.Unix(), 0))
	return seconds >= certificate.ValidAfter && seconds < certificate.ValidBefore
}
