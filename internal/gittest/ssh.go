package gittest

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// SSHServer is a git server over SSH that accepts one key. The repository is in
// the home of its users.
type SSHServer struct {
	// URL is the repository's address, and Address the server's HOST:PORT.
	URL, Address string
	// KeyFile has the private key that the server accepts; RefusedKeyFile one
	// that it refuses.
	KeyFile, RefusedKeyFile string
	// KnownHostsFile has the server's key, OtherHostsFile another key for the
	// server, and EmptyHostsFile no host.
	KnownHostsFile, OtherHostsFile, EmptyHostsFile string

	mu      sync.Mutex
	hanging bool
	held    int
	fault   func(io.ReadWriter)
	release chan struct{}
}

// Held counts the sessions so far that were answered by silence.
func (s *SSHServer) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Hang sets whether sessions get no answer.
func (s *SSHServer) Hang(hanging bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hanging = hanging
}

// Break lets fault answer the sessions, or the repository again if it is nil.
func (s *SSHServer) Break(fault func(session io.ReadWriter)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// ServeSSH serves a repository with git upload-pack over SSH until the end of the test.
func ServeSSH(t testing.TB, repo *Repo) *SSHServer {
	t.Helper()
	folder := t.TempDir()
	host, otherHost := newSigner(t, ""), newSigner(t, "")
	s := &SSHServer{
		KeyFile: filepath.Join(folder, "id"), RefusedKeyFile: filepath.Join(folder, "refused"),
		KnownHostsFile: filepath.Join(folder, "known_hosts"), OtherHostsFile: filepath.Join(folder, "other_hosts"), EmptyHostsFile: filepath.Join(folder, "empty_hosts"),
		release: make(chan struct{}),
	}
	allowed := newSigner(t, s.KeyFile).PublicKey()
	newSigner(t, s.RefusedKeyFile)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	write(t, s.KnownHostsFile, knownhosts.Line([]string{address}, host.PublicKey())+"\n")
	write(t, s.OtherHostsFile, knownhosts.Line([]string{address}, otherHost.PublicKey())+"\n")
	write(t, s.EmptyHostsFile, "")
	s.URL, s.Address = "ssh://git@"+address+repo.bare, address

	server := &ssh.Server{
		PublicKeyHandler: func(_ ssh.Context, key ssh.PublicKey) bool { return ssh.KeysEqual(key, allowed) },
		Handler:          func(session ssh.Session) { s.serve(session, repo) },
	}
	server.AddHostKey(host)
	// Like most servers it has a second key, of a type that clients prefer, which
	// is not in the known hosts.
	second, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(second)
	if err != nil {
		t.Fatal(err)
	}
	server.AddHostKey(signer)
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		close(s.release)
		_ = server.Close()
		tasks.Wait()
	})
	return s
}

func (s *SSHServer) serve(session ssh.Session, repo *Repo) {
	s.mu.Lock()
	hanging, fault := s.hanging, s.fault
	if hanging {
		s.held++
	}
	s.mu.Unlock()
	if fault != nil {
		fault(session)
		return
	}
	if hanging {
		select {
		case <-session.Context().Done():
		case <-s.release:
		}
		return
	}
	arguments, home := session.Command(), filepath.Dir(repo.bare)
	served := func(path string) bool {
		inHome := strings.TrimPrefix(path, "~/")
		return path == repo.bare || filepath.Join(home, inHome) == repo.bare
	}
	if len(arguments) != 2 || arguments[0] != "git-upload-pack" || !served(arguments[1]) {
		_, _ = io.WriteString(session.Stderr(), "only git-upload-pack of the repository is served\n")
		_ = session.Exit(1)
		return
	}
	command := exec.CommandContext(session.Context(), "git", "upload-pack", arguments[1])
	command.Dir, command.Env = home, append(Environment(), "HOME="+home)
	command.Stdout, command.Stderr = session, session.Stderr()
	// The command may end before the client closes its side, so do not wait for its input.
	input, err := command.StdinPipe()
	if err == nil {
		err = command.Start()
	}
	if err != nil {
		_ = session.Exit(1)
		return
	}
	go func() {
		_, _ = io.Copy(input, session)
		_ = input.Close()
	}()
	if command.Wait() != nil {
		_ = session.Exit(1)
		return
	}
	_ = session.Exit(0)
}

// newSigner creates a key, and writes it to a file if one is given.
func newSigner(t testing.TB, file string) gossh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if file != "" {
		block, err := gossh.MarshalPrivateKey(private, "")
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, string(pem.EncodeToMemory(block)))
	}
	return signer
}

func write(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
