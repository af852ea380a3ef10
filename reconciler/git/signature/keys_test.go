package signature

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
)

// Lines that are not understood are refused with their place: a restriction is never ignored.
func TestAllowedSignersErrors(t *testing.T) {
	key := gittest.NewSSHKey(t, "ed25519").Public
	good := "ada@example.com " + key + "\n"
	for text, want := range map[string]string{
		"":                                           "allowed_signers is empty",
		" \n\n":                                      "allowed_signers is empty",
		"# nobody\n":                                 "allowed_signers has no signer",
		good + "ada@example.com":                     ":2: a line must be PRINCIPALS [OPTIONS] KEY",
		good + "\n\nbob ssh-ed25519 AAAA":            ":4: the key cannot be read",
		good + `"bob ` + key:                         ":2: a quote is not closed",
		"bob no-touch-required " + key:               ":1: option no-touch-required: it is not known",
		`bob from="1.2.3.4" ` + key:                  ":1: option from: it is not known",
		`bob valid-before="soon" ` + key:             `:1: option valid-before: "soon" is no time`,
		`bob valid-before=20250101 ` + key:           ":1: option valid-before: its value must be in quotes",
		`bob valid-after="" ` + key:                  ":1: option valid-after: its value is empty",
		`bob cert-authority="x" ` + key:              ":1: option cert-authority: it has no value",
		`bob namespaces="a",namespaces="git" ` + key: ":1: option namespaces is given twice",
		"bob " + dsaKey:                              ":1: ",
	} {
		file := filepath.Join(t.TempDir(), "allowed_signers")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Files{Signers: file}).Load(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: the error is %v, want %q in it", text, err, want)
		}
	}
}

// dsaKey is a key of a type that nobody should use any more, and that is not supported.
const dsaKey = "ssh-dss AAAAB3NzaC1kc3MAAACBAJ3hB5sAF6v"

// A file of keys that are not public ones, or none, is refused.
func TestKeyringErrors(t *testing.T) {
	gpg := gittest.NewGPG(t)
	key := gpg.NewKey("Ada <ada@example.com>", "ed25519", "never")
	public := gpg.Run("", "--armor", "--export", key)
	for text, want := range map[string]string{
		"":        "keyring is empty",
		"nothing": "keyring has no OpenPGP keys",
		gpg.Run("", "--armor", "--passphrase", "", "--pinentry-mode", "loopback", "--export-secret-keys", key): "only public keys belong into the file",
		gpg.Run("", "--passphrase", "", "--pinentry-mode", "loopback", "--export-secret-keys", key):            "is a private one",
		public + "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnothing\n-----END PGP PUBLIC KEY BLOCK-----\n":       "armored block 2",
	} {
		file := filepath.Join(t.TempDir(), "keyring")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (&Files{Keyring: file}).Load(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("the error is %v, want %q in it", err, want)
		}
	}
}

// Files are read again: what is in them now counts, and is known by its version.
func TestFilesAreReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "allowed_signers")
	files := &Files{Signers: file}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	version := func() string {
		t.Helper()
		keys, err := files.Load()
		if err != nil {
			t.Fatal(err)
		}
		return keys.Version()
	}
	one, two := "ada "+gittest.NewSSHKey(t, "ed25519").Public+"\n", "ada "+gittest.NewSSHKey(t, "ed25519").Public+"\n"
	write(one)
	first := version()
	if again := version(); again != first {
		t.Error("the version differs though the file does not")
	}
	write(two)
	if version() == first {
		t.Error("the version is the same though the file differs")
	}
	write("")
	if _, err := files.Load(); err == nil {
		t.Error("an empty file is no error")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := files.Load(); err == nil {
		t.Error("no file is no error")
	}
	write(one)
	if version() != first {
		t.Error("the version of the first content is another now")
	}
}

// RSA signs with SHA-2 only.
func TestNoSHA1(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	keys := &Keys{signers: []signer{{principals: "ada", key: key.PublicKey()}}, now: time.Now}
	text := []byte("text")
	sum := sha512.Sum512(text)
	type signedData struct{ Namespace, Reserved, Hash, Sum string }
	signed := append([]byte("SSHSIG"), ssh.Marshal(signedData{"git", "", "sha512", string(sum[:])})...)
	for algorithm, want := range map[string]api.SignatureStatus{
		ssh.KeyAlgoRSASHA512: api.SignatureVerified, ssh.KeyAlgoRSASHA256: api.SignatureVerified, ssh.KeyAlgoRSA: api.SignatureInvalid,
	} {
		signature, err := key.(ssh.AlgorithmSigner).SignWithAlgorithm(rand.Reader, signed, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
			Version                                   uint32
			Key, Namespace, Reserved, Hash, Signature string
		}{1, string(key.PublicKey().Marshal()), "git", "", "sha512", string(ssh.Marshal(signature))})...)
		armored := pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
		if got := keys.Verify(text, armored, time.Now()); got.Status != want {
			t.Errorf("%s: got %+v, want %s", algorithm, got, want)
		}
	}
}

// Whatever stands in the place of a signature gives an answer.
func TestHostileSignatures(t *testing.T) {
	key := gittest.NewSSHKey(t, "ed25519")
	file := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(file, []byte("ada "+key.Public), 0o600); err != nil {
		t.Fatal(err)
	}
	keys, err := (&Files{Signers: file}).Load()
	if err != nil {
		t.Fatal(err)
	}
	message := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(message, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	gittest.Keygen(t, "-Y", "sign", "-n", "git", "-f", key.File, message)
	good, err := os.ReadFile(message + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	if got := keys.Verify([]byte("text"), good, time.Now()); got.Status != api.SignatureVerified {
		t.Fatalf("got %+v", got)
	}
	for what, armored := range map[string][]byte{
		"nonsense": []byte("nonsense"), "only a beginning": []byte("-----BEGIN SSH SIGNATURE-----\n"), "two": append(bytes.Clone(good), good...),
		"more after it": append(bytes.Clone(good), "more"...), "too long": append(bytes.Clone(good), bytes.Repeat([]byte("\n"), maxSignature)...),
		"cut": good[:len(good)/2], "OpenPGP": []byte("-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n"),
		"X.509": []byte("-----BEGIN SIGNED MESSAGE-----\n"),
	} {
		if got := keys.Verify([]byte("text"), armored, time.Now()); got.Status != api.SignatureInvalid || got.Reason == "" || got.Approved {
			t.Errorf("%s: got %+v", what, got)
		}
	}
	block, _ := pem.Decode(good)
	for i := range block.Bytes {
		changed := bytes.Clone(block.Bytes)
		changed[i] ^= 1
		armored := pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: changed})
		if got := keys.Verify([]byte("text"), armored, time.Now()); got.Status == api.SignatureVerified {
			t.Errorf("with byte %d changed, got %+v", i, got)
		}
	}
}

func TestMatchList(t *testing.T) {
	for _, c := range []struct {
		text, list string
		want       bool
	}{
		{"ada@example.com", "ada@example.com", true}, {"ada@example.com", "bob,ada@example.com", true}, {"ada@example.com", "*@example.com", true},
		{"ada@example.com", "*@example.co", false}, {"ada@example.com", "???@example.com", true}, {"ada@example.com", "*,!ada*", false},
		{"ada@example.com", "!bob", false}, {"", "*", true}, {"", "", true}, {"a", "", false}, {"aXbXc", "a*b*c", true}, {"aXbX", "a*b*c", false}, {"a*", "a*", true},
		{strings.Repeat("a", 50000), strings.Repeat("*a", 500) + "b", false},
	} {
		if got := matchList(c.text, c.list); got != c.want {
			t.Errorf("%.40q matches %.40q: %t", c.text, c.list, got)
		}
	}
}
