package git

import (
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
)

// Every option of a line of allowed signers is obeyed, as ssh-keygen does.
func TestAllowedSigners(t *testing.T) {
	key, other := gittest.NewSSHKey(t, "ed25519"), gittest.NewSSHKey(t, "ed25519")
	// The commits are of noon in 2025.
	made := time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		line   string
		want   api.SignatureStatus
		reason string
	}{
		{"ada@example.com KEY", api.SignatureVerified, ""},
		{`"ada@example.com" KEY`, api.SignatureVerified, ""},
		{"*@example.com\tKEY", api.SignatureVerified, ""},
		{"ada@example.com OTHER", api.SignatureUnknownKey, "unknown key SHA256:"},
		{`ada@example.com valid-before="20250601120000Z" KEY`, api.SignatureVerified, ""},
		{`ada@example.com valid-before="20250601115959Z" KEY`, api.SignatureExpired, "expired at 2025-06-01T11:59:59Z"},
		{`ada@example.com valid-before="20250101Z" KEY`, api.SignatureExpired, "expired at 2025-01-01T00:00:00Z"},
		{`ada@example.com valid-after="20250601120000Z" KEY`, api.SignatureVerified, ""},
		{`ada@example.com valid-after="202506011201Z" KEY`, api.SignatureNotYetValid, "is valid from 2025-06-01T12:01:00Z on"},
		{`ada@example.com valid-after="20250101",valid-before="20260101" KEY`, api.SignatureVerified, ""},
		{`ada@example.com namespaces="git" KEY`, api.SignatureVerified, ""},
		{`ada@example.com namespaces="file,g?t" KEY`, api.SignatureVerified, ""},
		{`ada@example.com namespaces="file" KEY`, api.SignatureUnknownKey, "is allowed for the namespaces file, not for git"},
		{`ada@example.com namespaces="*,!git" KEY`, api.SignatureUnknownKey, "not for git"},
		{"ada@example.com cert-authority KEY", api.SignatureUnknownKey, "unknown key SHA256:"},
		{"ada@example.com namespaces=\"file\" KEY\nada@example.com KEY", api.SignatureVerified, ""},
	} {
		t.Run(c.line, func(t *testing.T) {
			s := newSigning(t)
			s.allow(strings.NewReplacer("KEY", key.Public, "OTHER", other.Public).Replace(c.line))
			s.SignWithSSH(key.File)
			s.At(made)
			if got := s.check(s.commit("Signed"), c.want); !strings.Contains(got.Signature.Reason, c.reason) {
				t.Errorf("the reason is %q, want %q in it", got.Signature.Reason, c.reason)
			}
		})
	}
}

// Certificates are accepted for the principals in both the certificate and the line of its authority.
func TestCertificates(t *testing.T) {
	authority, other := gittest.NewSSHKey(t, "ed25519"), gittest.NewSSHKey(t, "ed25519")
	for _, c := range []struct {
		name, line, principals string
		options                []string
		want                   api.SignatureStatus
		signer                 string
	}{
		{"one principal", "ada@example.com cert-authority KEY", "ada@example.com", nil, api.SignatureVerified, "ada@example.com"},
		{"one of two", "eve@example.com,ada@example.com cert-authority KEY", "ada@example.com,bob@example.com", nil, api.SignatureVerified, "ada@example.com"},
		{"another principal", "ada@example.com cert-authority KEY", "bob@example.com", nil, api.SignatureUnknownKey, ""},
		{"another authority", "ada@example.com cert-authority OTHER", "ada@example.com", nil, api.SignatureUnknownKey, ""},
		{"no authority", "ada@example.com KEY", "ada@example.com", nil, api.SignatureUnknownKey, ""},
		{"expired", "ada@example.com cert-authority KEY", "ada@example.com", []string{"-V", "20200101:20210101"}, api.SignatureExpired, ""},
		{"valid then", "ada@example.com cert-authority KEY", "ada@example.com", []string{"-V", "20250101:20260101"}, api.SignatureVerified, "ada@example.com"},
		{"a host", "ada@example.com cert-authority KEY", "ada@example.com", []string{"-h"}, api.SignatureUnknownKey, ""},
		{"another namespace", `ada@example.com cert-authority,namespaces="file" KEY`, "ada@example.com", nil, api.SignatureUnknownKey, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, key := newSigning(t), gittest.NewSSHKey(t, "ecdsa")
			s.allow(strings.NewReplacer("KEY", authority.Public, "OTHER", other.Public).Replace(c.line))
			s.SignWithSSH(key.Certify(t, authority, c.principals, c.options...))
			s.At(time.Date(2025, 6, 1, 12, 0, 0, 0, time.UTC))
			if got := s.check(s.commit("Signed"), c.want); c.signer != "" && (got.Signature.Signer != c.signer || got.Signature.Key != fingerprint(t, key)) {
				t.Errorf("got %+v, want %s", got.Signature, c.signer)
			}
		})
	}
	// git cannot say whose such a signature is; ssh-keygen -Y verify -I ada@example.com accepts it.
	t.Run("a pattern", func(t *testing.T) {
		s, key := newSigning(t), gittest.NewSSHKey(t, "ed25519")
		s.allow("*@example.com,!bob@example.com cert-authority " + authority.Public)
		s.SignWithSSH(key.Certify(t, authority, "bob@example.com,ada@example.com"))
		if got := s.read(s.commit("Signed")); got.Signature.Status != api.SignatureVerified || got.Signature.Signer != "ada@example.com" {
			t.Errorf("got %+v", got.Signature)
		}
	})
	// The critical options of a certificate restrict it, and are not known here.
	t.Run("a critical option", func(t *testing.T) {
		s, key := newSigning(t), gittest.NewSSHKey(t, "ed25519")
		s.allow("ada@example.com cert-authority " + authority.Public)
		s.SignWithSSH(key.Certify(t, authority, "ada@example.com", "-O", "force-command=true"))
		if got := s.read(s.commit("Signed")); got.Signature.Status != api.SignatureInvalid {
			t.Errorf("got %+v", got.Signature)
		}
	})
}
