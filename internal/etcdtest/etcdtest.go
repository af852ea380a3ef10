// Package etcdtest runs etcd and etcdctl for tests. Servers can be killed,
// frozen, wiped and restarted, and can require TLS or a password.
package etcdtest

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// Server is an etcd server with one member and its data in a temporary folder.
type Server struct {
	// Endpoint is the URL for clients. It stays the same over restarts.
	Endpoint string
	// Folder is the data folder.
	Folder string
	// CAFile, CertFile and KeyFile are set by WithTLS; the certificate serves both sides.
	CAFile, CertFile, KeyFile string
	// Username and PasswordFile are set by RequireUser.
	Username, PasswordFile string

	password string

	t         testing.TB
	address   string
	arguments []string
	process   *exec.Cmd
	log       string
}

// Option configures Start.
type Option func(*Server)

// WithArguments adds arguments of etcd.
func WithArguments(arguments ...string) Option {
	return func(s *Server) { s.arguments = append(s.arguments, arguments...) }
}

// WithTLS makes the server require client certificates of a CA created for the test.
func WithTLS() Option {
	return func(s *Server) {
		s.CAFile, s.CertFile, s.KeyFile = makeCertificates(s.t)
		s.arguments = append(s.arguments, "--cert-file", s.CertFile, "--key-file", s.KeyFile, "--trusted-ca-file", s.CAFile, "--client-cert-auth")
	}
}

// Start starts a server and stops it at the end of the test.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := &Server{t: t, Folder: filepath.Join(t.TempDir(), "data")}
	for _, option := range options {
		option(s)
	}
	scheme := "http"
	if s.CAFile != "" {
		scheme = "https"
	}
	for try := 0; ; try++ {
		s.address = testtool.FreeAddress(t)
		s.Endpoint = scheme + "://" + s.address
		err := s.start()
		if err == nil {
			break
		}
		// Another process may have taken the port since it was chosen.
		if try == 5 {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.Kill)
	return s
}

func (s *Server) start() error {
	binary := testtool.Path(s.t, "etcd")
	// etcd requires a peer address, which nobody connects to.
	peer := "http://" + testtool.FreeAddress(s.t)
	arguments := append([]string{
		"--name", "test", "--data-dir", s.Folder, "--listen-client-urls", s.Endpoint, "--advertise-client-urls", s.Endpoint,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", "http://127.0.0.1:2380", "--initial-cluster", "test=http://127.0.0.1:2380",
		"--log-level", "error", "--heartbeat-interval", "20", "--election-timeout", "100",
	}, s.arguments...)
	s.process = exec.Command(binary, arguments...)
	s.log = s.Folder + ".log"
	out, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	s.process.Stdout, s.process.Stderr = out, out
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	exited := make(chan struct{})
	process := s.process
	go func() {
		_ = process.Wait()
		close(exited)
	}()
	for deadline := time.Now().Add(testtool.WaitLimit); ; {
		if s.answers() {
			return nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(s.log)
			return fmt.Errorf("etcd ended: %s", text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = s.process.Process.Kill()
			text, _ := os.ReadFile(s.log)
			return fmt.Errorf("etcd is not ready: %s", text)
		}
	}
}

func (s *Server) answers() bool {
	connection, err := net.DialTimeout("tcp", s.address, time.Second)
	if err != nil {
		return false
	}
	connection.Close()
	_, err = s.run("--command-timeout", "2s", "endpoint", "health")
	// With authentication enabled, a refusal shows that the server runs.
	return err == nil || strings.Contains(err.Error(), "user name is empty") || strings.Contains(err.Error(), "authentication")
}

// Kill kills the server with SIGKILL and waits for it to end.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Kill()
	gone := func() error {
		if s.process.Process.Signal(syscall.Signal(0)) == nil {
			return errors.New("it was killed, and runs")
		}
		return nil
	}
	if err := testtool.Poll(testtool.WaitLimit, gone); err != nil {
		s.t.Errorf("etcd: %v", err)
	}
	s.process = nil
}

// Restart starts a killed server again with its data.
func (s *Server) Restart() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatal(err)
	}
}

// Wipe deletes a killed server's data.
func (s *Server) Wipe() {
	s.t.Helper()
	if err := os.RemoveAll(s.Folder); err != nil {
		s.t.Fatal(err)
	}
}

// Ctl runs etcdctl on the server and returns its output.
func (s *Server) Ctl(arguments ...string) string {
	s.t.Helper()
	out, err := s.run(arguments...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *Server) run(arguments ...string) (string, error) {
	return ctl(s.t, "", append(s.flags(), arguments...)...)
}

// flags are etcdctl's to connect to the server. Its default timeouts, 2 and 5 seconds,
// are too short for a busy machine.
func (s *Server) flags() []string {
	full := []string{"--endpoints", s.Endpoint, "--dial-timeout", "30s", "--command-timeout", "60s"}
	if s.CAFile != "" {
		full = append(full, "--cacert", s.CAFile, "--cert", s.CertFile, "--key", s.KeyFile)
	}
	if s.Username != "" {
		full = append(full, "--user", s.Username+":"+s.password)
	}
	return full
}

// Ctl runs etcdctl and returns its standard output.
func Ctl(t testing.TB, arguments ...string) (string, error) { return ctl(t, "", arguments...) }

func ctl(t testing.TB, input string, arguments ...string) (string, error) {
	command := exec.Command(testtool.Path(t, "etcdctl"), arguments...)
	var out, errors bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(input), &out, &errors
	if err := command.Run(); err != nil {
		return out.String(), fmt.Errorf("etcdctl %s: %w: %s", strings.Join(arguments, " "), err, errors.String())
	}
	return out.String(), nil
}

// RequireUser enables authentication: only root, with the password in
// PasswordFile, has access.
func (s *Server) RequireUser() {
	s.t.Helper()
	const password = "s3cret"
	s.Ctl("user", "add", "root:"+password)
	s.Ctl("user", "grant-role", "root", "root")
	s.Ctl("auth", "enable")
	s.Username, s.password = "root", password
	s.PasswordFile = filepath.Join(s.t.TempDir(), "password")
	if err := os.WriteFile(s.PasswordFile, []byte(password+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// SetPassword gives the user of RequireUser another password. PasswordFile keeps the one before.
func (s *Server) SetPassword(password string) {
	s.t.Helper()
	if _, err := ctl(s.t, password+"\n", append(s.flags(), "user", "passwd", s.Username, "--interactive=false")...); err != nil {
		s.t.Fatal(err)
	}
	s.password = password
}
