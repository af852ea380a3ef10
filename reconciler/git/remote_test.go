package git

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// short is a timeout that a test waits for. Operations that succeed have a longer one.
const short = 500 * time.Millisecond

func secretFile(t testing.TB, secret string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// fullWay checks head, a delta with all files, a small one, and the commits between.
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
	if list := commits.List; len(list) != 2 || list[0].Hash != last || list[1].Hash != between || !commits.All {
		t.Errorf("the commits since are %+v, want %s and %s", commits, last, between)
	}
}

// Remotes over HTTP with basic and bearer authentication, over HTTPS, and
// over SSH with a key and known hosts, can be read.
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

// A clone has the newest commit and those pushed since: no earlier one, no other
// branch, and no work tree.
func TestClonesAreShallowAndBare(t *testing.T) {
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
				clones := glob(t, filepath.Join(s.dataDir, "*"))
				if len(clones) != 1 {
					t.Fatalf("%s, the clones are %v, want one", what, clones)
				}
				has := map[string]bool{}
				for line := range strings.Lines(gittest.Run(t, clones[0], "cat-file", "--batch-all-objects", "--batch-check=%(objectname)") + "\n") {
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
				if text, err := os.ReadFile(filepath.Join(clones[0], "shallow")); err != nil || strings.TrimSpace(string(text)) != second {
					t.Errorf("%s, the copy is shallow at %q (%v), want %s", what, text, err, second)
				}
				if got := gittest.Run(t, clones[0], "rev-parse", "--is-bare-repository"); got != "true" {
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

// 200 pushes leave no more on the disk than a few clones, even while an old
// delta is still read.
func TestDiskIsBounded(t *testing.T) {
	repo := gittest.New(t)
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	s := open(t, server.URL, "policies", func(s *Source) { s.MaxFetches = 10 })
	pushes := 40
	if testtool.Slow() {
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
		t.Errorf("the clones took %d bytes at most, want under %d", most, limit)
	}
	if left := glob(t, filepath.Join(s.dataDir, "*")); len(left) != 1 {
		t.Errorf("the clones left are %v, want one", left)
	}
}

// A forced push of an unrelated history is read.
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
	if err != nil || len(commits.List) != 1 || commits.List[0].Hash != second {
		t.Errorf("the commits since are %v (%v), want the new one", commits, err)
	}
	// A damaged clone is replaced.
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
