package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
