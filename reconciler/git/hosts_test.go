package git

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// Azure DevOps answers 400 to a fetch that does not declare multi_ack.
func TestServersThatNeedMultiAck(t *testing.T) {
	repo := gittest.New(t)
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{Refuse: func(r *http.Request, body []byte) string {
		if r.Method == http.MethodPost && !bytes.Contains(body, []byte("multi_ack")) {
			return "TF401035: the client must support multi_ack"
		}
		return ""
	}})
	fullWay(t, repo, open(t, server.URL, "policies"))
}

// A slash at the end of an address does not double in the paths that are asked
// for, and characters that a URL encodes stay encoded.
func TestHTTPPaths(t *testing.T) {
	repo, head := pushed(t, policy(1))
	for _, address := range []string{"/policies.git", "/policies.git/", "/policies.git//", "/p%6Flicies.git", "/an%20organisation/policies.git/"} {
		server := gittest.ServeHTTP(t, repo, gittest.HTTP{Refuse: func(r *http.Request, _ []byte) string {
			if strings.Contains(r.URL.Path, "//") {
				return "no such path: " + r.URL.Path
			}
			r.URL.Path = strings.TrimPrefix(r.URL.Path, "/an organisation")
			return ""
		}})
		s := open(t, strings.TrimSuffix(server.URL, "/policies.git")+address, "policies")
		if mustHead(t, s) != head {
			t.Errorf("%s has another head", address)
		}
		mustDelta(t, s, "", head)
	}
}

// The source reads a repository in its user's home, and one given by an address
// without slashes before its path.
func TestSSHAddressesAreServed(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeSSH(t, repo)
	for _, address := range []string{
		"ssh://git@" + server.Address + "/~/policies.git",
		"git+ssh://git@" + server.Address + repo.Bare(),
		"ssh+git://git@" + server.Address + repo.Bare(),
		"git@[" + server.Address + "]:policies.git",
		"[" + server.Address + "]:" + repo.Bare(),
		"[git@" + server.Address + "]:~/policies.git",
	} {
		s := open(t, address, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile })
		if got, err := s.Head(t.Context()); got != head {
			t.Errorf("%s: the head is %q (%v), want %s", address, got, err, head)
		}
	}
}

// sha256Repo returns a repository in git's other format, with one commit.
func sha256Repo(t *testing.T) *gittest.Repo {
	t.Helper()
	repo := gittest.New(t)
	for _, folder := range []string{repo.Bare(), repo.Work()} {
		if err := os.RemoveAll(folder); err != nil {
			t.Fatal(err)
		}
	}
	gittest.Run(t, "/", "init", "-q", "--bare", "--object-format=sha256", repo.Bare())
	gittest.Run(t, "/", "init", "-q", "--object-format=sha256", repo.Work())
	repo.Git("remote", "add", "origin", repo.Bare())
	repo.Commit("Begin", policy(1))
	repo.Push()
	return repo
}

// What a server sends that is no answer of a git server, or one that hfi cannot
// read, is named, and is not an error that passes by itself.
func TestAnswersThatAreNotGits(t *testing.T) {
	want := func(t *testing.T, s *Source, reason, text string) {
		t.Helper()
		_, err := s.Head(t.Context())
		if err == nil {
			t.Fatal("the head was read")
		}
		wantError(t, err, reason, reconciler.Stalled)
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error does not say %q: %v", text, err)
		}
	}
	t.Run("SHA-256", func(t *testing.T) {
		repo := sha256Repo(t)
		server := gittest.ServeSSH(t, repo)
		ssh := open(t, server.URL, "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile })
		for _, s := range []*Source{open(t, gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL, "policies"), ssh} {
			want(t, s, "Unsupported", "uses SHA-256")
		}
		want(t, open(t, repo.Bare(), "policies"), "Unsupported", "objectformat = sha256")
	})
	t.Run("the dumb protocol", func(t *testing.T) {
		repo, _ := pushed(t, policy(1))
		repo.Server("update-server-info")
		server := httptest.NewServer(http.FileServer(http.Dir(repo.Bare())))
		defer server.Close()
		want(t, open(t, server.URL, "policies"), "Unsupported", "dumb HTTP protocol")
	})
	page := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, "<html><title>Sign in</title></html>")
	}
	for name, c := range map[string]struct {
		answer       http.HandlerFunc
		reason, text string
	}{
		"a web page": {func(w http.ResponseWriter, _ *http.Request) { page(w) }, "NotGit", "returned a web page"},
		"a redirect to one": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/users/sign_in" {
				page(w)
				return
			}
			http.Redirect(w, r, "/users/sign_in?from=x", http.StatusFound)
		}, "NotGit", "/users/sign_in, returned a web page"},
		"a page with the protocol's ending": {func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/login") {
				page(w)
				return
			}
			http.Redirect(w, r, "/login"+r.URL.Path, http.StatusFound)
		}, "NotGit", "/login/r.git/info/refs, returned a web page"},
		"JSON": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, "{}")
		}, "NotGit", `returned the content type "application/json"`},
		"400": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "TF401035: the client is too old\nmore", http.StatusBadRequest)
		}, "UnexpectedAnswer", "400 Bad Request: TF401035: the client is too old: check the URL"},
		"410": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) }, "RepositoryMissing", "410 Gone"},
		"501": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotImplemented) }, "UnexpectedAnswer", "501 Not Implemented"},
		"304": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) }, "UnexpectedAnswer", "304"},
		"nonsense under the right type": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
			_, _ = io.WriteString(w, "001e# service=git-upload-pack\n00000010no hash here")
		}, "UnexpectedAnswer", "cannot be parsed"},
		"an endless redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path+"?again", http.StatusFound)
		}, "UnexpectedAnswer", "too many redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(c.answer)
			defer server.Close()
			want(t, open(t, server.URL+"/r.git", "policies"), c.reason, c.text)
		})
	}
	t.Run("HTTPS to a server of HTTP", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		defer server.Close()
		want(t, open(t, strings.Replace(server.URL, "http:", "https:", 1)+"/r.git", "policies"), "UnexpectedAnswer", "HTTP response to HTTPS client")
	})
	t.Run("an SSH server that refuses with words", func(t *testing.T) {
		repo, _ := pushed(t, policy(1))
		server := gittest.ServeSSH(t, repo)
		s := open(t, "ssh://git@"+server.Address+"/elsewhere.git", "policies", func(s *Source) { s.SSHKeyFile, s.KnownHostsFile = server.KeyFile, server.KnownHostsFile })
		want(t, s, "UnexpectedAnswer", "only git-upload-pack of the repository is served")
	})
}

// A server that limits the number of requests, or is unavailable, is left alone
// for as long as it says, whatever operation is asked for meanwhile.
func TestRetryAfter(t *testing.T) {
	repo, head := pushed(t, policy(1))
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	answer := func(status int, headers map[string]string) func(http.Handler) http.Handler {
		return func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				for name, value := range headers {
					w.Header().Set(name, value)
				}
				http.Error(w, "slow down", status)
			})
		}
	}
	for _, c := range []struct {
		status       int
		headers      map[string]string
		reason, says string
	}{
		{http.StatusTooManyRequests, map[string]string{"Retry-After": "1"}, "RateLimited", "limits the number of requests"},
		{http.StatusServiceUnavailable, map[string]string{"Retry-After": "1"}, "Unreachable", "is unavailable"},
		{http.StatusTooManyRequests, map[string]string{"Retry-After": time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat)}, "RateLimited", "limits the number of requests"},
		// GitHub's, https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
		{http.StatusForbidden, map[string]string{"Retry-After": "1", "X-RateLimit-Remaining": "59"}, "RateLimited", "limits the number of requests"},
		{http.StatusForbidden, map[string]string{"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(time.Now().Add(2 * time.Second).Unix())}, "RateLimited", "limits the number of requests"},
	} {
		s := open(t, server.URL, "policies")
		server.Break(answer(c.status, c.headers))
		_, err := s.Head(t.Context())
		began := time.Now()
		wantError(t, err, c.reason, reconciler.Retry)
		if !strings.Contains(err.Error(), c.says) {
			t.Errorf("status %d: got %v, want that the server %s", c.status, err, c.says)
		}
		server.Break(nil)
		before, during := server.Requests(), 0
		testtool.Eventually(t, "the server is asked again", func() bool {
			if got, err := s.Head(t.Context()); err == nil {
				return got == head
			}
			during = server.Requests() - before
			_, err = s.Delta(t.Context(), "", head)
			return err == nil
		})
		if took := time.Since(began); c.headers["Retry-After"] == "1" && took < 900*time.Millisecond || during > 0 {
			t.Errorf("status %d: the server was asked again after %s, and %d times before", c.status, took, during)
		}
	}
	// Any other server that forbids it has nothing to wait for.
	s := open(t, server.URL, "policies")
	server.Break(answer(http.StatusForbidden, map[string]string{"Retry-After": "1"}))
	_, err := s.Head(t.Context())
	wantError(t, err, "AuthenticationFailed", reconciler.Stalled)
	server.Break(nil)
	if got, err := s.Head(t.Context()); err != nil || got != head {
		t.Errorf("then it answers %s, %v", got, err)
	}
	for after, most := range map[string]time.Duration{"": defaultPause, "soon": defaultPause, "-5": defaultPause, "999999999": maxPause, "Fri, 31 Dec 2199 23:59:59 GMT": maxPause} {
		var p pause
		_ = p.begin("server", http.StatusTooManyRequests, after)
		if left := time.Until(p.until); left > most || left < most-time.Minute {
			t.Errorf("Retry-After %q is a pause of %s, want %s", after, left, most)
		}
	}
	// Only a limit of requests is worth a long pause: an outage may end earlier
	// than the server expects.
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusForbidden} {
		var p pause
		_ = p.begin("server", status, "3600")
		if left := time.Until(p.until); left > maxOutagePause || left < maxOutagePause-time.Minute {
			t.Errorf("status %d: a pause of %s, want %s", status, left, maxOutagePause)
		}
	}
}
