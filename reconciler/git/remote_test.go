package git

import (
	"bytes"
	"context"
	"encoding/base64"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// short is a time limit that a test waits out. What succeeds has a longer one.
const short = 500 * time.Millisecond

func secretFile(t testing.TB, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// fullWay checks head, a whole delta, a small one, and the commits between.
func fullWay(t *testing.T, repo *gittest.Repo, s *Source) {
	t.Helper()
	first := repo.Commit("First", policy(1))
	repo.Push()
	if got := mustHead(t, s); got != first {
		t.Fatalf("head is %s, want %s", got, first)
	}
	if delta, contents := mustDelta(t, s, "", first); delta.Base != "" || contents["policies/a.yaml"] != "n: 1\n" || delta.Commit.Subject != "First" {
		t.Errorf("the first delta is from %q, of %+v: %q", delta.Base, delta.Commit, contents)
	}
	between := repo.Commit("Between", policy(5))
	last := repo.Commit("Last", map[string]string{"policies/b.yaml": "b"})
	repo.Push()
	if got := mustHead(t, s); got != last {
		t.Fatalf("head is %s, want %s", got, last)
	}
	if delta, contents := mustDelta(t, s, first, last); delta.Base != first || len(contents) != 2 || contents["policies/b.yaml"] != "b" {
		t.Errorf("the next delta is from %q: %q", delta.Base, contents)
	}
	commits, err := s.Since(t.Context(), first, last)
	if err != nil {
		t.Fatal(err)
	}
	if len(commits) != 2 || commits[0].Hash != last || commits[1].Hash != between {
		t.Errorf("the commits since are %+v, want %s and %s", commits, last, between)
	}
}

// Remotes over HTTP with basic and bearer authentication, over HTTPS, and
// over SSH with a key and known hosts. (G1)
func TestRemotes(t *testing.T) {
	t.Run("HTTP", func(t *testing.T) {
		repo := gittest.New(t)
		fullWay(t, repo, open(t, gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL, "policies"))
	})
	t.Run("HTTP with a user and a password file", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{User: "ada", Password: "s3cret"})
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) { s.Username, s.PasswordFile = "ada", secretFile(t, "s3cret") }))
	})
	t.Run("HTTP with credentials in the URL", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{User: "ada", Password: "s3cret"})
		s := open(t, strings.Replace(server.URL, "://", "://ada:s3cret@", 1), "policies")
		fullWay(t, repo, s)
		if s.DisplayURL() != server.URL {
			t.Errorf("the URL for people is %s, want %s", s.DisplayURL(), server.URL)
		}
	})
	t.Run("HTTP with a token", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{Token: "t0ken"})
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) { s.TokenFile = secretFile(t, "t0ken") }))
	})
	t.Run("HTTPS", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true})
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) { s.CABundleFile = server.CAFile }))
	})
	t.Run("HTTPS with a user and a password file", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{User: "ada", Password: "s3cret", TLS: true})
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) {
			s.CABundleFile, s.Username, s.PasswordFile = server.CAFile, "ada", secretFile(t, "s3cret")
		}))
	})
	t.Run("HTTPS with a token", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{Token: "t0ken", TLS: true})
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) {
			s.CABundleFile, s.TokenFile = server.CAFile, secretFile(t, "t0ken")
		}))
	})
	t.Run("SSH", func(t *testing.T) {
		repo := gittest.New(t)
		server := gittest.ServeSSH(t, repo)
		fullWay(t, repo, open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile }))
	})
}

// A remote's copy holds the newest commit alone, and what came after it: none
// before, no branch but the one followed, and no file checked out. (G1)
func TestCopiesAreShallowAndBare(t *testing.T) {
	ssh := func(t *testing.T, repo *gittest.Repo) *Source {
		server := gittest.ServeSSH(t, repo)
		return open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile })
	}
	http := func(t *testing.T, repo *gittest.Repo) *Source {
		return open(t, gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL, "policies")
	}
	for name, serve := range map[string]func(*testing.T, *gittest.Repo) *Source{"HTTP": http, "SSH": ssh} {
		t.Run(name, func(t *testing.T) {
			repo, first := pushed(t, policy(1))
			second := repo.Commit("Second", policy(2))
			repo.Push()
			repo.Git("checkout", "-q", "-b", "other", first)
			other := repo.Commit("Other", policy(9))
			repo.Git("push", "-q", "origin", "HEAD:refs/heads/other")
			repo.Git("checkout", "-q", "-B", "main", second)
			past := []string{first, first + "^{tree}", first + ":policies/a.yaml", other, other + ":policies/a.yaml"}
			var left []string
			for _, name := range past {
				left = append(left, repo.Git("rev-parse", name))
			}

			s := serve(t, repo)
			mustHead(t, s)
			mustDelta(t, s, "", second)
			check := func(what string) {
				t.Helper()
				copies := glob(t, filepath.Join(s.dataDir, "*"))
				if len(copies) != 1 {
					t.Fatalf("%s, the copies are %v, want one", what, copies)
				}
				has := map[string]bool{}
				for line := range strings.Lines(gittest.Run(t, copies[0], "cat-file", "--batch-all-objects", "--batch-check=%(objectname)") + "\n") {
					has[strings.TrimSpace(line)] = true
				}
				if !has[second] {
					t.Errorf("%s, the copy lacks the commit that was read", what)
				}
				for i, hash := range left {
					if has[hash] {
						t.Errorf("%s, the copy holds %s, which the followed commit does not need", what, past[i])
					}
				}
				if text, err := os.ReadFile(filepath.Join(copies[0], "shallow")); err != nil || strings.TrimSpace(string(text)) != second {
					t.Errorf("%s, the copy is shallow at %q (%v), want %s", what, text, err, second)
				}
				if got := gittest.Run(t, copies[0], "rev-parse", "--is-bare-repository"); got != "true" {
					t.Errorf("%s, the copy is bare: %s", what, got)
				}
				err := filepath.WalkDir(s.dataDir, func(path string, entry os.DirEntry, err error) error {
					if name := entry.Name(); name == "policies" || name == "a.yaml" || name == "b.yaml" || name == "index" {
						t.Errorf("%s, there is a work tree: %s", what, path)
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			check("after the first fetch")
			third := repo.Commit("Third", map[string]string{"policies/b.yaml": "b"})
			repo.Push()
			mustDelta(t, s, second, third)
			check("after the next one")
		})
	}
}

// Each way in which a remote fails is reported as what it is, within the time
// limit, without a credential in it; and the same source recovers. (G8)
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
		{"401", gittest.Answer(401), "AuthenticationFailed", reconciler.Mend},
		{"403", gittest.Answer(403), "AuthenticationFailed", reconciler.Mend},
		{"404", gittest.Answer(404), "RepositoryMissing", reconciler.Mend},
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
					t.Errorf("%s: the password shows: %s", doing, leak)
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
			s.Timeout = patience
			if mustHead(t, s) != second {
				t.Error("the head was not found again")
			}
			mustDelta(t, s, "", second)
			if left := glob(t, filepath.Join(s.dataDir, "*")); len(left) != 1 {
				t.Errorf("failures left copies: %v", left)
			}
		})
	}
	t.Run("the fetch alone hangs in the middle or is cut", func(t *testing.T) {
		for _, fault := range []func(http.Handler) http.Handler{server.HangAfter(10_000), gittest.CutAfter(10_000)} {
			s := open(t, server.URL, "policies", func(s *Source) { s.Username, s.PasswordFile = "ada", secretFile(t, password) })
			mustHead(t, s)
			s.Timeout = short
			server.Break(fault)
			_, err := s.Delta(t.Context(), "", second)
			if err == nil {
				t.Fatal("the delta was read")
			}
			if known := err.(*reconciler.SourceError); known.Then != reconciler.Retry {
				t.Errorf("a cut fetch is no error to retry: %v", err)
			}
			server.Break(nil)
			s.Timeout = patience
			mustDelta(t, s, "", second)
		}
	})
	t.Run("the caller gives up", func(t *testing.T) {
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
		wantError(t, err, "AuthenticationFailed", reconciler.Mend)
		if text := err.Error(); strings.Contains(text, "wr0ng-one") || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte("ada:wr0ng-one"))) {
			t.Errorf("the password shows: %v", err)
		}
		if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
			t.Fatal(err)
		}
		mustHead(t, s)
	})
	t.Run("nobody listens", func(t *testing.T) {
		s := open(t, "http://ada:"+password+"@127.0.0.1:1/x.git", "policies")
		_, err := s.Head(t.Context())
		wantError(t, err, "Unreachable", reconciler.Retry)
		if strings.Contains(err.Error(), password) {
			t.Errorf("the password shows: %v", err)
		}
	})
	t.Run("a certificate that nobody vouches for", func(t *testing.T) {
		secure := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true})
		_, err := open(t, secure.URL, "policies").Head(t.Context())
		wantError(t, err, "CertificateInvalid", reconciler.Mend)
	})
	t.Run("a certificate authority whose file is missing, empty, then right", func(t *testing.T) {
		secure := gittest.ServeHTTP(t, repo, gittest.HTTP{TLS: true})
		file := filepath.Join(t.TempDir(), "ca.pem")
		s := open(t, secure.URL, "policies", func(s *Source) { s.CABundleFile = file })
		_, err := s.Head(t.Context())
		wantError(t, err, "CertificateInvalid", reconciler.Mend)
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
		wantError(t, err, "CertificateInvalid", reconciler.Mend)
		right, err := os.ReadFile(secure.CAFile)
		if err != nil {
			t.Fatal(err)
		}
		write(right)
		if mustHead(t, s) != second {
			t.Error("mended, the head was not found")
		}
	})
	t.Run("branch missing, repository empty", func(t *testing.T) {
		empty := gittest.New(t)
		s := open(t, gittest.ServeHTTP(t, empty, gittest.HTTP{}).URL, "policies")
		_, err := s.Head(t.Context())
		wantError(t, err, "RepositoryEmpty", reconciler.Await)
		hash := empty.Commit("x", policy(1))
		empty.Git("push", "-q", "origin", "HEAD:refs/heads/other")
		_, err = s.Head(t.Context())
		wantError(t, err, "BranchMissing", reconciler.Await)
		empty.Push()
		if mustHead(t, s) != hash {
			t.Error("the branch was not found when it came")
		}
	})
}

// SSH trusts no host that it does not know, and no key that changed; it says
// so, and a hanging server is given up on in time. (G1)
func TestSSHFailures(t *testing.T) {
	repo, first := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	for _, c := range []struct {
		name, key, hosts, reason string
		then                     reconciler.Consequence
	}{
		{"unknown host", server.KeyFile, server.EmptyHostsFile, "HostKeyUnknown", reconciler.Mend},
		{"changed host key", server.KeyFile, server.OtherHostsFile, "HostKeyChanged", reconciler.Mend},
		{"wrong key", server.StrangerKeyFile, server.KnownHostsFile, "AuthenticationFailed", reconciler.Mend},
		{"no key", "", server.KnownHostsFile, "AuthenticationFailed", reconciler.Mend},
		{"no known hosts", server.KeyFile, "", "HostKeyUnknown", reconciler.Mend},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = c.key, c.hosts })
			_, err := s.Head(t.Context())
			wantError(t, err, c.reason, c.then)
			s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile
			if mustHead(t, s) != first {
				t.Error("mended, the head was not found")
			}
		})
	}
	right := func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile }
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
		s.Timeout = patience
		mustHead(t, s)
		mustDelta(t, s, "", first)
	})
	t.Run("a port that says nothing", func(t *testing.T) {
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

// 200 pushes leave no more on the disk than a few copies, even while an old
// delta is still read.
func TestDiskIsBounded(t *testing.T) {
	repo := gittest.New(t)
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	s := open(t, server.URL, "policies", func(s *Source) { s.MaxFetches = 10 })
	pushes := 40
	if os.Getenv("HFI_SLOW") != "" {
		pushes = 200
	}
	previous, most := "", 0
	var held *reconciler.Delta
	var heldText string
	for n := range pushes {
		// Each push brings 20 kB that do not compress.
		text := noise(20_000)
		hash := repo.Commit("Push", map[string]string{"policies/a.yaml": text})
		repo.Push()
		delta, contents := mustDelta(t, s, previous, hash)
		if contents["policies/a.yaml"] != text {
			t.Fatalf("push %d reads otherwise", n)
		}
		if n%10 != 0 && delta.Base != previous {
			t.Errorf("push %d: the delta is from %q, want %q", n, delta.Base, previous)
		}
		previous, most = hash, max(most, diskUse(t, s.dataDir))
		switch n {
		case 5:
			var err error
			if held, err = s.Delta(t.Context(), "", hash); err != nil {
				t.Fatal(err)
			}
			heldText = text
		case 25:
			// The copy that it came from has been replaced twice.
			got, err := held.Files[0].Read(t.Context(), 1<<20)
			if err != nil || string(got) != heldText {
				t.Errorf("a delta from a copy that was replaced cannot be read: %v", err)
			}
			if err := held.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if limit := 3 * 10 * 25_000 * 2; most > limit {
		t.Errorf("the copies took %d bytes at most, want under %d", most, limit)
	}
	if left := glob(t, filepath.Join(s.dataDir, "*")); len(left) != 1 {
		t.Errorf("the copies left are %v, want one", left)
	}
}

// A forced push to a history that shares nothing with the one before.
func TestRemoteForcedPush(t *testing.T) {
	repo, first := pushed(t, policy(1))
	s := open(t, gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL, "policies")
	mustDelta(t, s, "", first)
	repo.Git("checkout", "-q", "--orphan", "fresh")
	second := repo.Commit("Fresh", policy(2))
	repo.ForcePush()
	if mustHead(t, s) != second {
		t.Error("the head is the old one")
	}
	if _, contents := mustDelta(t, s, first, second); contents["policies/a.yaml"] != "n: 2\n" {
		t.Errorf("got %q", contents)
	}
	commits, err := s.Since(t.Context(), first, second)
	if err != nil || len(commits) != 1 || commits[0].Hash != second {
		t.Errorf("the commits since are %v (%v), want the new one", commits, err)
	}
	// A damaged copy is made anew.
	for _, pack := range glob(t, filepath.Join(s.dataDir, "*/objects/pack/*.pack")) {
		spoil(t, pack, func([]byte) []byte { return []byte("PACK") })
	}
	third := repo.Commit("Third", policy(3))
	repo.Push()
	if _, contents := mustDelta(t, s, second, third); contents["policies/a.yaml"] != "n: 3\n" {
		t.Errorf("from a damaged copy got %q", contents)
	}
}

func noise(size int) string {
	bytes := make([]byte, size)
	for i := range bytes {
		bytes[i] = byte(' ' + rand.IntN(95))
	}
	return string(bytes)
}

func diskUse(t testing.TB, folder string) (total int) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += int(info.Size())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return total
}
