package git

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// clientCertificate returns a certificate that is its own authority, and its key, in PEM.
func clientCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "hfid"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
}

func replaceFile(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A server that wants a certificate of its clients gets the one in the files,
// as they are at each operation.
func TestClientCertificates(t *testing.T) {
	repo, head := pushed(t, policy(1))
	certificate, key := clientCertificate(t)
	otherCertificate, otherKey := clientCertificate(t)
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true, ClientCA: certificate})
	folder := t.TempDir()
	certFile, keyFile := filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key")

	_, err := open(t, server.URL, "policies", func(s *Source) { s.CABundleFile = server.CAFile }).Head(t.Context())
	wantError(t, err, "CertificateInvalid", reconciler.Stalled)
	if !strings.Contains(err.Error(), "--git-client-cert-file") {
		t.Errorf("the error does not say what to give: %v", err)
	}

	s := open(t, server.URL, "policies", func(s *Source) {
		s.CABundleFile, s.ClientCertFile, s.ClientKeyFile = server.CAFile, certFile, keyFile
	})
	fails := func() {
		t.Helper()
		_, err := s.Head(t.Context())
		if err == nil {
			t.Fatal("the server was read")
		}
		wantError(t, err, "CertificateInvalid", reconciler.Stalled)
	}
	fails() // There are no files.
	replaceFile(t, certFile, certificate)
	replaceFile(t, keyFile, otherKey)
	fails() // They do not belong together.
	replaceFile(t, certFile, otherCertificate)
	fails() // The server does not know them.
	replaceFile(t, certFile, certificate)
	replaceFile(t, keyFile, key)
	if mustHead(t, s) != head {
		t.Error("the head is another one")
	}
	mustDelta(t, s, "", head)

	replaceFile(t, certFile, append(key, certificate...))
	both := open(t, server.URL, "policies", func(s *Source) { s.CABundleFile, s.ClientCertFile = server.CAFile, certFile })
	if mustHead(t, both) != head {
		t.Error("with key and certificate in one file, the head is another one")
	}
}

// An encrypted key is used with the passphrase in a file; without it, and with
// a wrong one, the error says so, and not what the passphrase is.
func TestEncryptedSSHKeys(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	text, err := os.ReadFile(server.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(plain, "", []byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "id")
	replaceFile(t, key, pem.EncodeToMemory(block))
	for _, c := range []struct{ passphrase, text string }{
		{"", "is encrypted: give its passphrase by --git-ssh-passphrase-file"},
		{"open barley", "the passphrase does not decrypt"},
		{"open sesame", ""},
	} {
		s := open(t, server.URL, "policies", func(s *Source) {
			s.SSHKeyFile, s.KnownHostsFile = key, server.KnownHostsFile
			if c.passphrase != "" {
				s.SSHPassphraseFile = secretFile(t, c.passphrase)
			}
		})
		got, err := s.Head(t.Context())
		if c.text == "" {
			if got != head {
				t.Errorf("with the passphrase the head is %q (%v), want %s", got, err, head)
			}
			continue
		}
		wantError(t, err, "AuthenticationFailed", reconciler.Stalled)
		if !strings.Contains(err.Error(), c.text) || c.passphrase != "" && strings.Contains(err.Error(), c.passphrase) {
			t.Errorf("with passphrase %q the error is %v, want %q", c.passphrase, err, c.text)
		}
	}
}

// Lines of the known hosts that cannot be read do not disable the others, and
// are logged once.
func TestMalformedKnownHosts(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	right, err := os.ReadFile(server.KnownHostsFile)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(server.OtherHostsFile)
	if err != nil {
		t.Fatal(err)
	}
	malformed := []string{
		"host", "host ssh-ed25519", "host ssh-ed25519 not-base64!", "host ssh-rsa AAAA", "|1|x|y " + strings.SplitN(string(right), " ", 2)[1],
		"@unknown host ssh-ed25519 AAAA", "\x00\xff",
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	var log bytes.Buffer
	s := open(t, server.URL, "policies", func(s *Source) {
		s.SSHKeyFile, s.KnownHostsFile, s.Logger = server.KeyFile, file, slog.New(slog.NewTextHandler(&log, nil))
	})
	replaceFile(t, file, []byte(strings.Join(malformed, "\n")+"\n# a comment\n\n"+string(right)+malformed[0]))
	for range 2 {
		if got, err := s.Head(t.Context()); got != head {
			t.Fatalf("the head is %q (%v), want %s", got, err, head)
		}
	}
	if got := strings.Count(log.String(), "skipping a line"); got != len(malformed)+1 {
		t.Errorf("%d lines were logged, want %d:\n%s", got, len(malformed)+1, log.String())
	}
	replaceFile(t, file, append([]byte(malformed[0]+"\n"), other...))
	_, err = s.Head(t.Context())
	wantError(t, err, "HostKeyChanged", reconciler.Stalled)
	replaceFile(t, file, bytes.Repeat([]byte("nonsense\n"), 2*maxSkipped))
	_, err = s.Head(t.Context())
	wantError(t, err, "HostKeyUnknown", reconciler.Stalled)
	if left := glob(t, filepath.Join(s.dataDir, "known-hosts-*")); len(left) > 0 {
		t.Errorf("files are left: %v", left)
	}
}
