package git

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
)

// OpenPGP keys are those of a keyring, and must be valid now and at the time of the signature.
func TestOpenPGPSignatures(t *testing.T) {
	gpg := gittest.NewGPG(t)
	start := func(t *testing.T, keys ...string) *signing {
		s := newSigning(t)
		s.gpg = gpg
		s.files.Keyring = filepath.Join(s.folder, "keyring")
		for _, key := range keys {
			before, _ := os.ReadFile(s.files.Keyring)
			s.write(s.files.Keyring, string(before)+gpg.Run("", "--armor", "--export", key))
		}
		return s
	}
	ada := gpg.NewKey("Ada <ada@example.com>", "ed25519", "never")
	bob := gpg.NewKey("Bob <bob@example.com>", "rsa2048", "never")
	t.Run("two blocks", func(t *testing.T) {
		for key, name := range map[string]string{ada: "Ada <ada@example.com>", bob: "Bob <bob@example.com>"} {
			s := start(t, ada, bob)
			s.SignWithGPG(gpg, key)
			if got := s.check(s.commit("Subject\r\n\nBody\r\n"), api.SignatureVerified); got.Signature.Signer != name || got.Signature.Key != key {
				t.Errorf("got %+v, want %s", got.Signature, name)
			}
		}
	})
	t.Run("a binary keyring", func(t *testing.T) {
		s := start(t)
		s.write(s.files.Keyring, gpg.Run("", "--export"))
		s.SignWithGPG(gpg, bob)
		s.check(s.commit("Signed"), api.SignatureVerified)
	})
	t.Run("unknown", func(t *testing.T) {
		s := start(t, ada)
		s.SignWithGPG(gpg, bob)
		if got := s.read(s.commit("Signed")); got.Signature.Status != api.SignatureUnknownKey || got.Signature.Reason != "unknown key "+bob {
			t.Errorf("got %+v", got.Signature)
		}
	})
	t.Run("a subkey", func(t *testing.T) {
		eve := gpg.NewKey("Eve <eve@example.com>", "ed25519", "never")
		gpg.Run("", "--passphrase", "", "--quick-add-key", eve, "ed25519", "sign", "never")
		subkey := ""
		for line := range strings.Lines(gpg.Run("", "--with-colons", "--list-keys", eve)) {
			if fields := strings.Split(line, ":"); fields[0] == "fpr" {
				subkey = fields[9]
			}
		}
		s := start(t, eve)
		s.SignWithGPG(gpg, subkey)
		if got := s.check(s.commit("Signed"), api.SignatureVerified); got.Signature.Key != eve || subkey == eve {
			t.Errorf("got %+v, want the primary key %s", got.Signature, eve)
		}
	})
	t.Run("another commit", func(t *testing.T) {
		s := start(t, ada)
		s.SignWithGPG(gpg, ada)
		s.check(s.put(strings.Replace(s.text(s.commit("One byte")), "One byte", "One Byte", 1)), api.SignatureInvalid)
	})
	t.Run("expired", func(t *testing.T) {
		old := gpg.NewKey("Old <old@example.com>", "ed25519", "20210101T000000", "--faked-system-time", "20200101T000000")
		s := start(t, old)
		program := gpg.Program
		then := *gpg
		then.Program = filepath.Join(s.folder, "gpg")
		s.write(then.Program, "#!/bin/sh\nexec "+program+" --faked-system-time 20200601T000000 \"$@\"\n")
		if err := os.Chmod(then.Program, 0o700); err != nil {
			t.Fatal(err)
		}
		s.SignWithGPG(&then, old)
		got := s.check(s.commit("Signed while the key was valid"), api.SignatureExpired)
		if !strings.Contains(got.Signature.Reason, old+" of Old <old@example.com> is not valid: it expired") {
			t.Errorf("the reason is %q", got.Signature.Reason)
		}
	})
	t.Run("revoked", func(t *testing.T) {
		gone := gpg.NewKey("Gone <gone@example.com>", "ed25519", "never")
		s := start(t, gone)
		s.SignWithGPG(gpg, gone)
		hash := s.commit("Signed before the key was revoked")
		s.check(hash, api.SignatureVerified)
		gpg.Revoke(gone)
		s.write(s.files.Keyring, gpg.Run("", "--armor", "--export", gone))
		if got := s.check(hash, api.SignatureRevoked); !strings.Contains(got.Signature.Reason, "is revoked") {
			t.Errorf("the reason is %q", got.Signature.Reason)
		}
	})
	t.Run("no keyring", func(t *testing.T) {
		s, key := newSigning(t), gittest.NewSSHKey(t, "ed25519")
		s.allow("ada@example.com " + key.Public)
		s.SignWithGPG(gpg, ada)
		if got := s.read(s.commit("Signed")); got.Signature.Status != api.SignatureUnknownKey || !strings.Contains(got.Signature.Reason, "no keyring is configured") {
			t.Errorf("got %+v", got.Signature)
		}
	})
}

// Approvers are principals, e-mail addresses and user IDs, and fingerprints.
func TestApprovers(t *testing.T) {
	key, authority, gpg := gittest.NewSSHKey(t, "ed25519"), gittest.NewSSHKey(t, "ed25519"), gittest.NewGPG(t)
	pgp := gpg.NewKey("Ada <ada@example.com>", "ed25519", "never")
	certificate := gittest.NewSSHKey(t, "ed25519").Certify(t, authority, "carl@example.com")
	for _, c := range []struct {
		approver                 string
		plain, certified, pgpKey bool
	}{
		{"ada@example.com", true, false, true},
		{"bob@example.com", false, false, false},
		{"carl@example.com", false, true, false},
		{"dora@example.org", true, false, false}, // the pattern's
		{fingerprint(t, key), true, false, false},
		{strings.ToLower(pgp), false, false, true},
		{"Ada <ada@example.com>", false, false, true},
		{"*", false, false, false},
		{"", false, false, false},
	} {
		s := newSigning(t)
		s.allow("ada@example.com,*@example.org "+key.Public, "*@example.com cert-authority "+authority.Public)
		s.files.Keyring = filepath.Join(s.folder, "keyring")
		s.write(s.files.Keyring, gpg.Run("", "--armor", "--export"))
		s.files.Approvers = []string{"nobody@example.com", c.approver}
		approved := func() bool {
			got := s.read(s.commit("Signed"))
			if got.Signature.Status != api.SignatureVerified {
				t.Fatalf("the signature is %+v", got.Signature)
			}
			return got.Approved
		}
		s.SignWithSSH(key.File)
		if got := approved(); got != c.plain {
			t.Errorf("%q approves the key: %t", c.approver, got)
		}
		s.SignWithSSH(certificate)
		if got := approved(); got != c.certified {
			t.Errorf("%q approves the certificate: %t", c.approver, got)
		}
		s.SignWithGPG(gpg, pgp)
		if got := approved(); got != c.pgpKey {
			t.Errorf("%q approves the OpenPGP key: %t", c.approver, got)
		}
		s.DoNotSign()
		if s.read(s.commit("Unsigned")).Approved {
			t.Errorf("%q approves an unsigned commit", c.approver)
		}
	}
}
