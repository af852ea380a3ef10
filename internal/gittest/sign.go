package gittest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// SSHKey is a key pair without a passphrase.
type SSHKey struct {
	// File is the private key, and File + ".pub" the public one.
	File string
	// Public is the public key: TYPE BASE64.
	Public string
}

// NewSSHKey makes a key pair with ssh-keygen; options follow its type, such as -b 3072.
func NewSSHKey(t testing.TB, kind string, options ...string) SSHKey {
	t.Helper()
	file := filepath.Join(t.TempDir(), "id")
	Keygen(t, append([]string{"-q", "-t", kind, "-N", "", "-C", "", "-f", file}, options...)...)
	return SSHKey{File: file, Public: publicKey(t, file+".pub")}
}

// Certify makes a certificate for the key with ssh-keygen; options are such as -V.
// git signs with it if user.signingkey is the file that is returned.
func (k SSHKey) Certify(t testing.TB, authority SSHKey, principals string, options ...string) string {
	t.Helper()
	Keygen(t, append(append([]string{"-q", "-s", authority.File, "-I", "test", "-n", principals}, options...), k.File+".pub")...)
	return k.File + "-cert.pub"
}

func publicKey(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text))[:2], " ")
}

// Keygen runs ssh-keygen.
func Keygen(t testing.TB, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		testtool.Lacks(t, "there is no ssh-keygen command")
	}
	out, err := exec.Command("ssh-keygen", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// GPG is a home of GnuPG.
type GPG struct {
	t    testing.TB
	home string
	// Program runs gpg with this home, for git's gpg.program.
	Program string
}

// NewGPG makes a home of GnuPG, which is removed at the end of the test.
func NewGPG(t testing.TB) *GPG {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		testtool.Lacks(t, "there is no gpg command")
	}
	// The folder of a test may be too long for the agent's socket.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	g := &GPG{t: t, home: home, Program: filepath.Join(t.TempDir(), "gpg")}
	write(t, g.Program, "#!/bin/sh\nexec gpg --batch --homedir "+home+" \"$@\"\n")
	if err := os.Chmod(g.Program, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("gpgconf", "--homedir", home, "--kill", "all").CombinedOutput(); err != nil {
			t.Errorf("ending GnuPG's agent: %v\n%s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Error(err)
		}
	})
	return g
}

// Run runs gpg with a standard input.
func (g *GPG) Run(input string, args ...string) string {
	g.t.Helper()
	command := exec.Command(g.Program, args...)
	var errs bytes.Buffer
	command.Stdin, command.Stderr = strings.NewReader(input), &errs
	out, err := command.Output()
	if err != nil {
		g.t.Fatalf("gpg %q: %v\n%s", args, err, errs.String())
	}
	return string(out)
}

// NewKey makes a key that signs, and returns its fingerprint. Options go before the command.
func (g *GPG) NewKey(userID, kind, expire string, options ...string) string {
	g.t.Helper()
	g.Run("", append(options, "--passphrase", "", "--quick-generate-key", userID, kind, "sign", expire)...)
	for line := range strings.Lines(g.Run("", "--with-colons", "--list-keys", "="+userID)) {
		if fields := strings.Split(line, ":"); fields[0] == "fpr" {
			return fields[9]
		}
	}
	g.t.Fatalf("gpg did not make a key of %s", userID)
	return ""
}

// SignWithSSH makes the work clone's commits signed with a key: a private one, or a certificate.
func (r *Repo) SignWithSSH(file string) {
	r.signing = []string{"-c", "gpg.format=ssh", "-c", "user.signingkey=" + file}
}

// SignWithGPG makes the work clone's commits signed with a key, whose fingerprint is given.
func (r *Repo) SignWithGPG(home *GPG, key string) {
	r.signing = []string{"-c", "gpg.program=" + home.Program, "-c", "user.signingkey=" + key + "!"}
}

// DoNotSign makes the work clone's commits unsigned.
func (r *Repo) DoNotSign() { r.signing = nil }

// At sets the committer's date of the work clone's commits.
func (r *Repo) At(date time.Time) {
	r.date = []string{"GIT_COMMITTER_DATE=" + date.Format(time.RFC3339)}
}

// Verifies reports whether git verify-commit accepts a commit, with allowed signers
// from a file, or with the keys of a home of GnuPG, which may be nil.
func (r *Repo) Verifies(commit, allowedSigners string, home *GPG) (ok bool, output string) {
	r.t.Helper()
	args := []string{"-c", "gpg.ssh.allowedSignersFile=" + allowedSigners}
	if home != nil {
		args = append(args, "-c", "gpg.program="+home.Program)
	}
	command := exec.Command("git", append(args, "verify-commit", "--raw", commit)...)
	command.Dir, command.Env = r.work, Environment()
	out, err := command.CombinedOutput()
	return err == nil, string(out)
}

// Revoke revokes a key that NewKey made.
func (g *GPG) Revoke(key string) {
	g.t.Helper()
	// The certificate that gpg makes for each key has a colon that prevents its use by accident.
	text, err := os.ReadFile(filepath.Join(g.home, "openpgp-revocs.d", key+".rev"))
	if err != nil {
		g.t.Fatal(err)
	}
	g.Run(strings.Replace(string(text), "\n:-----BEGIN", "\n-----BEGIN", 1), "--import")
}
