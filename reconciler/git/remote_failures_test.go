package git

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// Each failure of a remote is reported with its reason, within Timeout and
// without credentials, and the same source recovers.
func TestRemoteFailures(t *testing.T) {
	repo, first := pushed(t, policy(1))
	second := repo.Commit("Second", map[string]string{"policies/b.yaml": noise(1 << 16)})
	repo.Push()
	const password = "pa55word-of-ada"
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{User: "ada", Password: password})
	for _, c := range []struct {
		name   string
		fault  func(http.Handler) http.Handler
		reason string
		then   reconciler.Consequence
	}{
		{"401", gittest.Answer(401), "AuthenticationFailed", reconciler.Stalled},
		{"403", gittest.Answer(403), "AuthenticationFailed", reconciler.Stalled},
		{"404", gittest.Answer(404), "RepositoryMissing", reconciler.Stalled},
		{"500", gittest.Answer(500), "Unreachable", reconciler.Retry},
		{"503", gittest.Answer(503), "Unreachable", reconciler.Retry},
		{"hang before the headers", server.Hang, "TimedOut", reconciler.Retry},
		{"hang in the middle", server.HangAfter(100), "TimedOut", reconciler.Retry},
		{"cut in the middle", gittest.CutAfter(100), "Unreachable", reconciler.Retry},
		{"cut at once", gittest.CutAfter(0), "Unreachable", reconciler.Retry},
	} {
		t.Run(c.name, func(t *testing.T) {
			var logs bytes.Buffer
			s := open(t, strings.Replace(server.URL, "://", "://ada:"+password+"@", 1), "policies", func(s *Source) {
				s.Logger = slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
			})
			check := func(doing string, err error) {
				t.Helper()
				if err == nil {
					t.Fatalf("%s succeeds", doing)
				}
				wantError(t, err, c.reason, c.then)
				if leak := err.Error() + logs.String() + s.DisplayURL(); strings.Contains(leak, password) {
					t.Errorf("%s: the message has the password: %s", doing, leak)
				}
			}
			if strings.HasPrefix(c.name, "hang") {
				s.Timeout = short
			}
			server.Break(c.fault)
			_, err := s.Head(t.Context())
			check("head", err)
			_, err = s.Delta(t.Context(), "", second)
			check("delta", err)
			_, err = s.Since(t.Context(), first, second)
			check("since", err)
			server.Break(nil)
			s.Timeout = testTimeout
			if mustHead(t, s) != second {
				t.Error("the head was not found again")
			}
			mustDelta(t, s, "", second)
			if left := glob(t, filepath.Join(s.dataDir, "*")); len(left) != 1 {
				t.Errorf("failures left clones: %v", left)
			}
		})
	}
	t.Run("only the fetch hangs or is cut off", func(t *testing.T) {
		for _, fault := range []func(http.Handler) http.Handler{server.HangAfter(10_000), gittest.CutAfter(10_000)} {
			s := open(t, server.URL, "policies", func(s *Source) { s.Username, s.PasswordFile = "ada", secretFile(t, password) })
			mustHead(t, s)
			s.Timeout = short
			server.Break(fault)
			_, err := s.Delta(t.Context(), "", second)
			if err == nil {
				t.Fatal("the delta was read")
			}
			if known := (*reconciler.SourceError)(nil); !errors.As(err, &known) || known.Consequence != reconciler.Retry {
				t.Errorf("a fetch that was cut off is not an error to retry: %v", err)
			}
			server.Break(nil)
			s.Timeout = testTimeout
			mustDelta(t, s, "", second)
		}
	})
	t.Run("the caller cancels", func(t *testing.T) {
		s := open(t, server.URL, "policies")
		server.Break(server.Hang)
		defer server.Break(nil)
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		_, err := s.Head(ctx)
		wantError(t, err, "TimedOut", reconciler.Retry)
	})
	t.Run("wrong credentials, then right ones", func(t *testing.T) {
		file := secretFile(t, "wr0ng-one")
		s := open(t, server.URL, "policies", func(s *Source) { s.Username, s.PasswordFile = "ada", file })
		_, err := s.Head(t.Context())
		wantError(t, err, "AuthenticationFailed", reconciler.Stalled)
		if text := err.Error(); strings.Contains(text, "wr0ng-one") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("ada:wr0ng-one"))) {
			t.Errorf("the message has the password: %v", err)
		}
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		mustHead(t, s)
	})
	t.Run("connection refused", func(t *testing.T) {
		s := open(t, "http://ada:"+password+"@127.0.0.1:1/x.git", "policies")
		_, err := s.Head(t.Context())
		wantError(t, err, "Unreachable", reconciler.Retry)
		if strings.Contains(err.Error(), password) {
			t.Errorf("the message has the password: %v", err)
		}
	})
	t.Run("a certificate of an unknown authority", func(t *testing.T) {
		secure := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true})
		_, err := open(t, secure.URL, "policies").Head(t.Context())
		wantError(t, err, "CertificateInvalid", reconciler.Stalled)
	})
	t.Run("a certificate authority whose file is missing, empty, then right", func(t *testing.T) {
		secure := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true})
		file := filepath.Join(t.TempDir(), "ca.pem")
		s := open(t, secure.URL, "policies", func(s *Source) { s.CABundleFile = file })
		_, err := s.Head(t.Context())
		wantError(t, err, "CertificateInvalid", reconciler.Stalled)
		if !strings.Contains(err.Error(), file) {
			t.Errorf("the error does not name %s: %v", file, err)
		}
		write := func(text []byte) {
			t.Helper()
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(nil)
		_, err = s.Head(t.Context())
		wantError(t, err, "CertificateInvalid", reconciler.Stalled)
		right, err := os.ReadFile(secure.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		write(right)
		if mustHead(t, s) != second {
			t.Error("the head was not found after the repair")
		}
	})
	t.Run("branch missing, repository empty", func(t *testing.T) {
		empty := gittest.New(t)
		s := open(t, gittest.ServeHTTP(t, empty, gittest.HTTP{}).URL, "policies")
		_, err := s.Head(t.Context())
		wantError(t, err, "RepositoryEmpty", reconciler.WaitForPush)
		hash := empty.Commit("x", policy(1))
		empty.Git("push", "-q", "origin", "HEAD:refs/heads/other")
		_, err = s.Head(t.Context())
		wantError(t, err, "BranchMissing", reconciler.WaitForPush)
		empty.Push()
		if mustHead(t, s) != hash {
			t.Error("the branch was not found once it existed")
		}
	})
}

// SSH refuses unknown hosts and changed keys with a reason, and times out if the
// server hangs.
func TestSSHFailures(t *testing.T) {
	repo, first := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	for _, c := range []struct {
		name, key, hosts, reason string
		then                     reconciler.Consequence
	}{
		{"unknown host", server.KeyFile, server.EmptyHostsFile, "HostKeyUnknown", reconciler.Stalled},
		{"changed host key", server.KeyFile, server.OtherHostsFile, "HostKeyChanged", reconciler.Stalled},
		{"wrong key", server.RefusedKeyFile, server.KnownHostsFile, "AuthenticationFailed", reconciler.Stalled},
		{"no key", "", server.KnownHostsFile, "AuthenticationFailed", reconciler.Stalled},
		{"no known hosts", server.KeyFile, "", "HostKeyUnknown", reconciler.Stalled},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = c.key, c.hosts })
			_, err := s.Head(t.Context())
			wantError(t, err, c.reason, c.then)
			s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile
			if mustHead(t, s) != first {
				t.Error("the head was not found after the repair")
			}
		})
	}
	right := func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile }
	t.Run("known hosts that are parsed in a data folder that cannot be written", func(t *testing.T) {
		malformed := filepath.Join(t.TempDir(), "known_hosts")
		text, err := os.ReadFile(server.KnownHostsFile)
		if err != nil {
			t.Fatal(err)
		}
		// Lines are left out in a copy of the file.
		if err := os.WriteFile(malformed, append([]byte("malformed\n"), text...), 0o600); err != nil {
			t.Fatal(err)
		}
		s := open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, malformed })
		usual := s.dataDir
		s.dataDir = filepath.Join(server.KeyFile, "git") // in a file
		_, err = s.Head(t.Context())
		wantError(t, err, "DataFolderUnwritable", reconciler.Stalled)
		s.dataDir = usual
		mustHead(t, s)
	})
	t.Run("a session that hangs", func(t *testing.T) {
		s := open(t, server.URL, "policies", right)
		s.Timeout = short
		server.Hang(true)
		for range 10 { // more than may hang at once
			_, err := s.Head(t.Context())
			wantError(t, err, "TimedOut", reconciler.Retry)
		}
		_, err := s.Delta(t.Context(), "", first)
		wantError(t, err, "TimedOut", reconciler.Retry)
		server.Hang(false)
		s.Timeout = testTimeout
		mustHead(t, s)
		mustDelta(t, s, "", first)
	})
	t.Run("a server that sends nothing", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		s := open(t, "ssh://git@"+listener.Addr().String()+"/x.git", "policies", right)
		s.Timeout = short
		for range 10 {
			_, err = s.Head(t.Context())
			wantError(t, err, "TimedOut", reconciler.Retry)
		}
	})
}

// A server whose disk is full says so in the words of this system's errors. It
// is not the disk of the clones.
func TestFullDiskOfTheServer(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	server.Break(func(git http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				git.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			message := "\x03" + syscall.ENOSPC.Error()
			_, _ = fmt.Fprintf(w, "00000008NAK\n%04x%s0000", len(message)+4, message)
		})
	})
	_, err := open(t, server.URL, "policies").Delta(t.Context(), "", head)
	if err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		t.Fatalf("got %v, want the server's words", err)
	}
	wantError(t, err, "UnexpectedAnswer", reconciler.Stalled)
}

// A server that sends without an end does not fill the disk, or the memory.
func TestAServerThatSendsWithoutEnd(t *testing.T) {
	repo, first := pushed(t, policy(1))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	endless := func(method, content, begin, piece string) func(http.Handler) http.Handler {
		return func(git http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method != method {
					git.ServeHTTP(w, r)
					return
				}
				w.Header().Set("Content-Type", content)
				_, err := w.Write([]byte(begin))
				for err == nil {
					_, err = w.Write([]byte(piece))
				}
			})
		}
	}
	line := func(text string) string { return fmt.Sprintf("%04x%s", 4+len(text), text) }
	s := open(t, server.URL, "policies", func(s *Source) { s.MaxRefs, s.MaxFetch = 1<<20, 1<<20 })
	server.Break(endless(http.MethodGet, "application/x-git-upload-pack-advertisement",
		"001e# service=git-upload-pack\n0000"+line(first+" refs/heads/a\x00ofs-delta\n"), line(first+" refs/heads/b\n")))
	_, err := s.Head(t.Context())
	wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
	// A progress message of the side band.
	server.Break(endless(http.MethodPost, "application/x-git-upload-pack-result", "0008NAK\n", line("\x02....")))
	_, err = s.Delta(t.Context(), "", first)
	wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
	// What comes before a pack is kept in memory, so the limit is the lower one.
	s.MaxFetch = 1 << 30
	for _, begin := range []string{"", "0000"} {
		piece := "shallow " + first
		if begin != "" {
			piece = "ACK " + first + " continue\n"
		}
		server.Break(endless(http.MethodPost, "application/x-git-upload-pack-result", begin, line(piece)))
		_, err = s.Delta(t.Context(), "", first)
		wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
		if !strings.Contains(err.Error(), "more than 1 MiB") {
			t.Errorf("the responses %q were read for longer than MaxRefs: %v", piece, err)
		}
	}
	// The text of an error is cut.
	for status, reason := range map[int]string{http.StatusNotFound: "RepositoryMissing", http.StatusUnauthorized: "AuthenticationFailed", http.StatusBadRequest: "UnexpectedAnswer"} {
		server.Break(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(status)
				var err error
				for err == nil {
					_, err = w.Write([]byte("no "))
				}
			})
		})
		_, err = s.Head(t.Context())
		wantError(t, err, reason, reconciler.Stalled)
	}
	server.Break(nil)
	mustDelta(t, s, "", first)
}

// Nor does an SSH server, before the fetch or during it.
func TestAnSSHServerThatSendsWithoutEnd(t *testing.T) {
	repo, first := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	line := func(text string) string { return fmt.Sprintf("%04x%s", 4+len(text), text) }
	branch := line(first + " refs/heads/main\x00ofs-delta side-band-64k\n")
	endless := func(w io.Writer, piece string) {
		var err error
		for err == nil {
			_, err = io.WriteString(w, piece)
		}
	}
	s := open(t, server.URL, "policies", func(s *Source) {
		s.SSHKeyFile, s.KnownHostsFile, s.MaxRefs, s.MaxFetch = server.KeyFile, server.KnownHostsFile, 1<<20, 4<<20
	})
	server.Break(func(session io.ReadWriter) {
		_, _ = io.WriteString(session, branch)
		endless(session, line(first+" refs/heads/b\n"))
	})
	_, err := s.Head(t.Context())
	wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
	_, err = s.Delta(t.Context(), "", first)
	wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
	if !strings.Contains(err.Error(), "more than 1 MiB") {
		t.Errorf("the list of references was read for longer than MaxRefs: %v", err)
	}
	server.Break(func(session io.ReadWriter) {
		_, _ = io.WriteString(session, branch+"0000")
		var asked []byte
		for !bytes.Contains(asked, []byte("done\n")) {
			piece := make([]byte, 1000)
			n, err := session.Read(piece)
			if asked = append(asked, piece[:n]...); err != nil {
				return
			}
		}
		_, _ = io.WriteString(session, "0008NAK\n")
		endless(session, line("\x02...."))
	})
	_, err = s.Delta(t.Context(), "", first)
	wantError(t, err, "AnswerTooLarge", reconciler.Stalled)
	server.Break(nil)
	mustHead(t, s)
	mustDelta(t, s, "", first)
}
