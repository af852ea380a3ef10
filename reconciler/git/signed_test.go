package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/git/signature"
)

// signing is a repository whose commits are verified.
type signing struct {
	*gittest.Repo
	t       testing.TB
	folder  string
	files   *signature.Files
	gpg     *gittest.GPG
	changes int
}

func newSigning(t testing.TB) *signing {
	folder := t.TempDir()
	return &signing{Repo: gittest.New(t), t: t, folder: folder, files: &signature.Files{}}
}

// allow makes a file of allowed signers, with a line for each.
func (s *signing) allow(lines ...string) {
	s.t.Helper()
	s.files.Signers = filepath.Join(s.folder, "allowed_signers")
	s.write(s.files.Signers, strings.Join(lines, "\n")+"\n")
}

func (s *signing) write(file, text string) {
	s.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// commit commits a change and pushes it.
func (s *signing) commit(message string) string {
	s.t.Helper()
	s.changes++
	hash := s.Repo.Commit(message, policy(s.changes))
	s.Push()
	return hash
}

// put stores a commit as it is encoded, and pushes it.
func (s *signing) put(text string) string {
	s.t.Helper()
	hash := s.GitInput(text, "hash-object", "-t", "commit", "-w", "--stdin", "--literally")
	s.Git("reset", "-q", "--hard", hash)
	s.ForcePush()
	return hash
}

func (s *signing) text(hash string) string {
	s.t.Helper()
	return s.Git("cat-file", "commit", hash) + "\n" // Repo.Git removes it: the message must end with one.
}

// check reads a commit, and checks the answer about its signature, and that git's is the same.
func (s *signing) check(hash string, want api.SignatureStatus) reconciler.Commit {
	s.t.Helper()
	commit := s.read(hash)
	if commit.Signature == nil || commit.Signature.Status != want {
		s.t.Fatalf("the signature is %+v, want %s", commit.Signature, want)
	}
	if (commit.Signature.Reason == "") != (want == api.SignatureVerified) {
		s.t.Errorf("the reason is %q", commit.Signature.Reason)
	}
	if ok, said := s.Verifies(hash, s.files.Signers, s.gpg); ok != (want == api.SignatureVerified) {
		s.t.Errorf("the signature is %+v, and git verify-commit says %t: %s", commit.Signature, ok, said)
	}
	return commit
}

func (s *signing) read(hash string) reconciler.Commit {
	s.t.Helper()
	source := open(s.t, s.Bare(), "policies", func(source *Source) { source.Signatures = s.files })
	delta, _ := mustDelta(s.t, source, "", hash)
	return delta.Commit
}

func fingerprint(t testing.TB, key gittest.SSHKey) string {
	return strings.Fields(gittest.Keygen(t, "-l", "-f", key.File+".pub"))[1]
}

// Signatures with every type of key are verified, and say whose they are.
func TestSSHSignatures(t *testing.T) {
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "2048"}} {
		t.Run(strings.Join(kind, ""), func(t *testing.T) {
			s, key := newSigning(t), gittest.NewSSHKey(t, kind[0], kind[1:]...)
			s.allow("# a comment", "", "ada@example.com,ada "+key.Public+" a comment")
			s.SignWithSSH(key.File)
			got := s.check(s.commit("Signed"), api.SignatureVerified)
			if got.Signature.Signer != "ada@example.com,ada" || got.Signature.Key != fingerprint(t, key) || !got.Approved {
				t.Errorf("got %+v, approved %t", got.Signature, got.Approved)
			}
		})
	}
}

// What a commit may consist of is covered by its signature, byte for byte.
func TestSignedCommits(t *testing.T) {
	key := gittest.NewSSHKey(t, "ed25519")
	start := func(t *testing.T) *signing {
		s := newSigning(t)
		s.allow("ada@example.com " + key.Public)
		s.SignWithSSH(key.File)
		return s
	}
	for name, message := range map[string]string{
		"plain": "Plain\n", "no line end": "x", "CRLF": "Subject\r\n\r\nBody\r\n", "empty": "", "white space": "\n\n Subject \n \n\tBody\n\n", "looks signed": "S\n\ngpgsig x\n y\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.check(s.commit(message), api.SignatureVerified)
		})
	}
	t.Run("encoding", func(t *testing.T) {
		s := start(t)
		s.Git("config", "i18n.commitEncoding", "ISO-8859-1")
		hash := s.commit("Gr\xfc\xdfe\n")
		if !strings.Contains(s.text(hash), "\nencoding ISO-8859-1\n") {
			t.Fatal("the commit has no encoding")
		}
		s.check(hash, api.SignatureVerified)
	})
	t.Run("mergetag", func(t *testing.T) {
		s := start(t)
		first := s.commit("First\n")
		s.commit("Second\n")
		s.Git("checkout", "-q", "-b", "side", first)
		s.Git("commit", "-q", "--allow-empty", "-m", "Side")
		s.Git("-c", "gpg.format=ssh", "-c", "user.signingkey="+key.File, "tag", "-s", "-m", "A tag", "v1")
		s.Git("checkout", "-q", "main")
		s.Git("-c", "gpg.format=ssh", "-c", "user.signingkey="+key.File, "merge", "-q", "-S", "--no-ff", "--no-edit", "v1")
		s.Push()
		if !strings.Contains(s.text(s.Head()), "\nmergetag ") {
			t.Fatal("the commit has no mergetag")
		}
		s.check(s.Head(), api.SignatureVerified)
	})
	t.Run("unsigned", func(t *testing.T) {
		s := start(t)
		s.DoNotSign()
		if got := s.check(s.commit("Unsigned\n"), api.SignatureUnsigned); got.Approved || got.Signature.Reason != "it is not signed" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("a signature of another commit", func(t *testing.T) {
		s := start(t)
		signed := s.text(s.commit("Signed\n"))
		_, signature, _ := splitSigned([]byte(signed))
		s.DoNotSign()
		head, body, _ := strings.Cut(s.text(s.commit("Another\n")), "\n\n")
		s.check(s.put(head+"\n"+gpgsig("gpgsig", string(signature))+"\n"+body), api.SignatureInvalid)
	})
	t.Run("one byte", func(t *testing.T) {
		s := start(t)
		s.check(s.put(strings.Replace(s.text(s.commit("One byte\n")), "One byte", "One Byte", 1)), api.SignatureInvalid)
	})
	t.Run("the message's last line end", func(t *testing.T) {
		s := start(t)
		s.check(s.put(s.text(s.commit("Subject\n"))+"\n"), api.SignatureInvalid)
	})
	t.Run("for another purpose", func(t *testing.T) {
		s := start(t)
		s.DoNotSign()
		unsigned := s.text(s.commit("Unsigned\n"))
		file := filepath.Join(s.folder, "commit")
		s.write(file, unsigned)
		gittest.Keygen(t, "-Y", "sign", "-n", "file", "-f", key.File, file)
		signature, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(unsigned, "\n\n")
		got := s.check(s.put(head+"\n"+gpgsig("gpgsig", string(signature))+"\n"+body), api.SignatureInvalid)
		if want := `the signature is for the namespace "file", not "git"`; got.Signature.Reason != want {
			t.Errorf("the reason is %q, want %q", got.Signature.Reason, want)
		}
	})
	// A signature for another hash function is not signed. It must smuggle nothing in.
	t.Run("gpgsig-sha256", func(t *testing.T) {
		s := start(t)
		other := s.commit("Another tree\n")
		tree := s.Git("rev-parse", other+"^{tree}")
		hash := s.commit("Signed\n")
		head, body, _ := strings.Cut(s.text(hash), "\n\n")
		text := head + "\ngpgsig-sha256 x\n tree " + tree + "\n \n hfi-allow-prune: true\n\n" + body
		s.put(text)
		got := s.check(s.Head(), api.SignatureVerified)
		_, files := mustDelta(t, open(t, s.Bare(), "policies"), "", s.Head())
		_, want := mustDelta(t, open(t, s.Bare(), "policies"), "", hash)
		if got.Subject != "Signed" || got.AllowPrune || fmt.Sprint(files) != fmt.Sprint(want) {
			t.Errorf("read %+v with %q, want what was signed: %q", got, files, want)
		}
	})
	// git reads no further parent after another header, and takes such a commit for
	// signed: a parent that is not verified would be left out.
	t.Run("a signature between the parents", func(t *testing.T) {
		s := start(t)
		first := s.commit("First\n")
		second := s.commit("Second\n")
		s.Git("checkout", "-q", "-b", "side", first)
		s.Repo.Commit("Side", map[string]string{"policies/side.yaml": "x"})
		s.Git("-c", "gpg.format=ssh", "-c", "user.signingkey="+key.File, "merge", "-q", "-S", "--no-ff", "--no-edit", second)
		s.ForcePush()
		merge := s.text(s.check(s.Head(), api.SignatureVerified).Hash)
		payload, signature, _ := splitSigned([]byte(merge))
		at := strings.Index(string(payload), "parent "+second)
		hash := s.put(string(payload[:at]) + gpgsig("gpgsig", string(signature)) + string(payload[at:]))
		if got := s.read(hash); got.Signature.Status != api.SignatureInvalid {
			t.Errorf("the signature is %+v", got.Signature)
		}
		if ok, said := s.Verifies(hash, s.files.Signers, nil); !ok {
			t.Errorf("git has become stricter: %s", said)
		}
	})
	t.Run("two signatures", func(t *testing.T) {
		s := start(t)
		hash := s.commit("Signed\n")
		payload, signature, _ := splitSigned([]byte(s.text(hash)))
		head, body, _ := strings.Cut(string(payload), "\n\n")
		twice := gpgsig("gpgsig", string(signature))
		if got := s.read(s.put(head + "\n" + twice + twice + "\n" + body)); got.Signature.Status != api.SignatureInvalid {
			t.Errorf("the signature is %+v", got.Signature)
		}
	})
}

// gpgsig is a header with a signature.
func gpgsig(name, signature string) string {
	return name + " " + strings.ReplaceAll(strings.TrimSuffix(signature, "\n"), "\n", "\n ") + "\n"
}

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
