package git

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// A server that accepts connections and sends nothing, not even its SSH
// version, exhausts no resource: after more operations than may run at once the
// source still answers, finds the server once it works, and closes without
// waiting.
func TestSilentSSHServer(t *testing.T) {
	repo, head := pushed(t, map[string]string{"policies/a.yaml": "a"})
	server := gittest.ServeSSH(t, repo)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var held []net.Conn
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			held = append(held, connection)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		accepting.Wait()
		for _, connection := range held {
			_ = connection.Close()
		}
	})
	s := open(t, "ssh://git@"+listener.Addr().String()+repo.Bare(), "policies", func(s *Source) {
		s.SSHKeyFile, s.KnownHostsFile, s.Timeout = server.KeyFile, server.KnownHostsFile, 100*time.Millisecond
	})
	for range 2 * cap(s.operations) {
		_, err := s.Head(t.Context())
		wantError(t, err, "TimedOut", reconciler.Retry)
	}
	testtool.Eventually(t, "no operation hangs", func() bool { return len(s.operations) == 0 })
	s.address, s.Timeout = parseAddress(server.URL), testTimeout
	if got := mustHead(t, s); got != head {
		t.Errorf("head is %s, want %s", got, head)
	}
}

// Servers accept a token as a bearer token or as a password. Both work, with an
// additional request at the first operation only.
func TestTokensOfBothKinds(t *testing.T) {
	repo, head := pushed(t, map[string]string{"policies/a.yaml": "a"})
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string]gittest.HTTP{
		"bearer":               {Token: "s3cret"},
		"password":             {User: tokenUser, Password: "s3cret"},
		"password with a name": {User: "ada", Password: "s3cret"},
	} {
		t.Run(name, func(t *testing.T) {
			server := gittest.ServeHTTP(t, repo, options)
			s := open(t, server.URL, "policies", func(s *Source) {
				s.TokenFile = token
				if options.User == "ada" {
					s.Username = "ada"
				}
			})
			if got := mustHead(t, s); got != head {
				t.Errorf("head is %s, want %s", got, head)
			}
			before := server.Requests()
			mustHead(t, s)
			if made := server.Requests() - before; made != 1 {
				t.Errorf("the second operation sent %d requests, want 1", made)
			}
			mustDelta(t, s, "", head)
		})
	}
}

// A server's error that repeats the credentials, at any length, is reported
// without them: not as they are in the file, not as they are encoded, and not
// after the file was replaced.
func TestServersThatEchoSecrets(t *testing.T) {
	repo, _ := pushed(t, map[string]string{"policies/a.yaml": "a"})
	const secret = "pa55/w+rd of=ada"
	file := filepath.Join(t.TempDir(), "secret")
	echo := func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if err := os.WriteFile(file, []byte("another"), 0o600); err != nil {
				t.Error(err)
			}
			_, password, _ := r.BasicAuth()
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "no entry\nfor %s %s %s ", r.Header.Get("Authorization"), password, url.QueryEscape(password))
			_, _ = w.Write(bytes.Repeat([]byte("and so on "), 10_000))
		})
	}
	for name, adjust := range map[string]func(*Source){
		"password": func(s *Source) { s.Username, s.PasswordFile = "ada", file },
		"token":    func(s *Source) { s.TokenFile = file },
		"URL": func(s *Source) {
			s.address = parseAddress(strings.Replace(s.address.remote, "://", "://ada:"+url.PathEscape(secret)+"@", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
				t.Fatal(err)
			}
			server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
			server.Break(echo)
			_, err := open(t, server.URL, "policies", adjust).Head(t.Context())
			wantError(t, err, "AuthenticationFailed", reconciler.Stalled)
			text := err.Error()
			for _, form := range []string{secret, url.QueryEscape(secret), url.PathEscape(secret), base64.StdEncoding.EncodeToString([]byte("ada:" + secret))} {
				if strings.Contains(text, form) {
					t.Errorf("the error contains %q: %s", form, text)
				}
			}
			if !strings.Contains(text, "no entry for") || len(text) > 2000 {
				t.Errorf("the server's text is lost or not cut: %d bytes, %.300s", len(text), text)
			}
		})
	}
}

// An answer that was cut off does not mean that the repository is damaged:
// it is an error to retry, without the advice to run git fsck.
func TestTruncatedAnswersAreRetried(t *testing.T) {
	repo, head := pushed(t, map[string]string{"policies/a.yaml": "a"})
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	s := open(t, server.URL, "policies")
	for _, fault := range []func(http.Handler) http.Handler{gittest.CutAfter(0), gittest.CutAfter(7), gittest.CutAfter(60), gittest.CutAfter(200)} {
		server.Break(fault)
		if _, err := s.Head(t.Context()); err != nil {
			wantError(t, err, "Unreachable", reconciler.Retry)
		}
		_, err := s.Delta(t.Context(), "", head)
		wantError(t, err, "Unreachable", reconciler.Retry)
	}
	server.Break(nil)
	mustDelta(t, s, "", head)
}

// If the base no longer exists, the commits since it are unknown, so that only
// head's own permission to prune counts.
func TestSinceAMissingBase(t *testing.T) {
	repo, _ := pushed(t, map[string]string{"policies/a.yaml": "a"})
	repo.Commit("Prune long ago\n\nhfi-allow-prune: true\n", map[string]string{"policies/a.yaml": "b"})
	head := repo.Commit("Go on", map[string]string{"policies/a.yaml": "c"})
	repo.Push()
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	for _, url := range []string{repo.Bare(), server.URL} {
		s := open(t, url, "policies")
		commits, err := s.Since(t.Context(), "1111111111111111111111111111111111111111", head)
		if err != nil {
			t.Fatal(err)
		}
		if list := commits.List; len(list) != 1 || list[0].Hash != head || list[0].AllowPrune || commits.All {
			t.Errorf("%s: got %v, want only %s without permission", url, commits, head)
		}
	}
}

// Open removes the clones of earlier processes and nothing else.
func TestOnlyOldClonesAreRemoved(t *testing.T) {
	folder := t.TempDir()
	precious, left := filepath.Join(folder, "precious"), filepath.Join(folder, clonePrefix+"1", "objects")
	if err := os.MkdirAll(left, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	s := New("http://127.0.0.1:1/policies.git", "main", "policies", folder)
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := os.Stat(precious); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("an old clone is left")
	}
}

// When a clone is replaced, the delta still has only the differences: the base
// is read from the predecessor.
func TestNewCloneKeepsTheBase(t *testing.T) {
	repo, base := pushed(t, map[string]string{"policies/a.yaml": "a", "policies/b.yaml": "b"})
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	s := open(t, server.URL, "policies", func(s *Source) { s.MaxFetches = 1 })
	mustDelta(t, s, "", base)
	for _, content := range []string{"1", "2", "3"} {
		before := s.remote.folder
		head := repo.Commit("Change", map[string]string{"policies/a.yaml": content})
		repo.Push()
		delta, contents := mustDelta(t, s, base, head)
		if delta.Base != base || len(contents) != 1 || contents["policies/a.yaml"] != content {
			t.Errorf("from %q: %v, want only a.yaml with %s from %s", delta.Base, contents, content, base)
		}
		if s.remote.folder == before {
			t.Error("the clone was not replaced")
		}
		if left := glob(t, filepath.Join(s.dataDir, clonePrefix+"*")); len(left) != 1 {
			t.Errorf("clones left: %v", left)
		}
		base = head
	}
}
