package git

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// What is missing or damaged is reported with its reason, and found once it is
// there, without a restart.
func TestReportedAndRecovered(t *testing.T) {
	t.Run("no repository, then an empty one, then a push", func(t *testing.T) {
		repo := gittest.New(t)
		away := repo.Bare() + ".away"
		move(t, repo.Bare(), away)
		s := open(t, repo.Bare(), "policies")
		_, err := s.Head(t.Context())
		wantError(t, err, "RepositoryMissing", reconciler.Stalled)
		move(t, away, repo.Bare())
		waitSignal(t, s)
		_, err = s.Head(t.Context())
		wantError(t, err, "RepositoryEmpty", reconciler.WaitForPush)
		hash := repo.Commit("First", policy(1))
		repo.Push()
		followed(t, s, hash)
	})
	t.Run("the folder is moved away and back", func(t *testing.T) {
		repo, first := pushed(t, policy(1))
		s := open(t, repo.Bare(), "policies")
		followed(t, s, first)
		quiet(s)
		away := repo.Bare() + ".away"
		move(t, repo.Bare(), away)
		waitSignal(t, s)
		_, err := s.Delta(t.Context(), "", first)
		wantError(t, err, "RepositoryMissing", reconciler.Stalled)
		move(t, away, repo.Bare())
		followed(t, s, first)
		second := repo.Commit("Second", policy(2))
		repo.Push()
		followed(t, s, second)
		mustDelta(t, s, first, second)
	})
	t.Run("no policy folder", func(t *testing.T) {
		repo, first := pushed(t, map[string]string{"readme": "x", "policies2/a.yaml": "x"})
		s := open(t, repo.Bare(), "policies")
		delta, contents := mustDelta(t, s, "", first)
		wantError(t, delta.Missing, "PathMissing", reconciler.WaitForPush)
		if len(contents) != 0 {
			t.Errorf("a commit without the folder has %q", contents)
		}
		second := repo.Commit("A file of that name", map[string]string{"policies": "x"})
		repo.Push()
		_, err := s.Delta(t.Context(), first, second)
		wantError(t, err, "PathNotAFolder", reconciler.WaitForPush)
		repo.Remove("Away", "policies")
		third := repo.Commit("A folder", policy(1))
		repo.Push()
		delta, contents = mustDelta(t, s, first, third)
		if delta.Base != first || len(contents) != 1 || delta.Missing != nil {
			t.Errorf("got base %q, missing %v and %q", delta.Base, delta.Missing, contents)
		}
	})
	t.Run("missing objects", func(t *testing.T) {
		t.Parallel()
		for _, kind := range []string{"commit", "tree", "blob"} {
			repo, first := pushed(t, policy(1))
			second := repo.Commit("Second", policy(2))
			repo.Push()
			s := open(t, repo.Bare(), "policies")
			file := objectFile(repo, second, kind)
			move(t, file, file+".away")
			_, err := readAll(t, s, first, second)
			wantError(t, err, "ObjectMissing", reconciler.Retry)
			move(t, file+".away", file)
			mustDelta(t, s, first, second)
		}
	})
	t.Run("corrupt objects", func(t *testing.T) {
		t.Parallel()
		for _, kind := range []string{"commit", "tree", "blob"} {
			for damage, harm := range map[string]func([]byte) []byte{
				"empty":   func([]byte) []byte { return nil },
				"cut":     func(b []byte) []byte { return b[:len(b)/2] },
				"noise":   func(b []byte) []byte { return []byte(strings.Repeat("noise", 30)) },
				"flipped": func(b []byte) []byte { b[len(b)-1] ^= 0x55; return b },
			} {
				repo, first := pushed(t, policy(1))
				second := repo.Commit("Second", policy(2))
				repo.Push()
				s := open(t, repo.Bare(), "policies")
				restore := spoil(t, objectFile(repo, second, kind), harm)
				_, err := readAll(t, s, first, second)
				if err == nil {
					t.Fatalf("%s %s: the delta was read", damage, kind)
				}
				wantError(t, err, "Corrupt", reconciler.Stalled)
				restore()
				mustDelta(t, s, first, second)
			}
		}
	})
	t.Run("another object in its place", func(t *testing.T) {
		repo, first := pushed(t, policy(1))
		second := repo.Commit("Second", policy(2))
		repo.Push()
		s := open(t, repo.Bare(), "policies")
		other, err := os.ReadFile(objectFile(repo, first, "blob"))
		if err != nil {
			t.Fatal(err)
		}
		restore := spoil(t, objectFile(repo, second, "blob"), func([]byte) []byte { return other })
		_, err = readAll(t, s, first, second)
		wantError(t, err, "Corrupt", reconciler.Stalled)
		restore()
		mustDelta(t, s, first, second)
	})
	t.Run("corrupt packs", func(t *testing.T) {
		t.Parallel()
		for name, pattern := range map[string]string{"pack": "*.pack", "index": "*.idx"} {
			for position := range 8 {
				repo, first := pushed(t, policy(1))
				second := repo.Commit("Second", map[string]string{"policies/b.yaml": strings.Repeat("abc\n", 50)})
				repo.Push()
				repo.Server("gc", "-q")
				s := open(t, repo.Bare(), "policies")
				restore := spoil(t, glob(t, filepath.Join(repo.Bare(), "objects/pack", pattern))[0], func(b []byte) []byte {
					b[len(b)*position/8] ^= 0xff
					return b
				})
				// Damage may miss the objects read; it may not change what they say, nor panic.
				contents, err := readAll(t, s, first, second)
				if err == nil && contents["policies/b.yaml"] != strings.Repeat("abc\n", 50) {
					t.Errorf("%s damaged at %d/8: it reads %q", name, position, contents)
				}
				restore()
				mustDelta(t, s, first, second)
			}
		}
	})
	t.Run("a damaged ref", func(t *testing.T) {
		repo, first := pushed(t, policy(1))
		s := open(t, repo.Bare(), "policies")
		for noise, reason := range map[string]string{
			"": "Corrupt", "noise\n": "Corrupt", strings.Repeat("0", 40) + "\n": "Corrupt", strings.Repeat("f", 40) + "\n": "ObjectMissing",
			"ref: refs/heads/main\n": "BranchMissing", "ref: refs/heads/none\n": "BranchMissing",
		} {
			restore := spoil(t, filepath.Join(repo.Bare(), "refs/heads/main"), func([]byte) []byte { return []byte(noise) })
			head, err := s.Head(t.Context())
			if err == nil {
				_, err = s.Delta(t.Context(), first, head)
			}
			if err == nil {
				t.Errorf("a ref with the content %q is read as %s", noise, head)
			}
			if known := new(reconciler.SourceError); !errors.As(err, &known) || known.Reason != reason {
				t.Errorf("a ref with the content %q: error %v, want %s", noise, err, reason)
			}
			restore()
			if mustHead(t, s) != first {
				t.Error("the head was not found again")
			}
		}
	})
}

// A repository in a format that go-git would misread is refused, with the format's name.
func TestUnsupportedFormats(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "sha256.git")
	gittest.Run(t, t.TempDir(), "init", "-q", "--bare", "--object-format=sha256", folder)
	_, err := open(t, folder, ".").Head(t.Context())
	wantError(t, err, "Unsupported", reconciler.Stalled)
	_, err = open(t, "ftp://example.com/x.git", ".").Head(t.Context())
	wantError(t, err, "Unsupported", reconciler.Stalled)
	_, err = open(t, "https://ada:secret@example.com:port/x.git", ".").Head(t.Context())
	wantError(t, err, "Unsupported", reconciler.Stalled)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the password is in the error: %v", err)
	}
}

// readAll returns a delta and the content of its files.
func readAll(t testing.TB, s *Source, base, head string) (map[string]string, error) {
	t.Helper()
	delta, err := s.Delta(t.Context(), base, head)
	if err != nil {
		return nil, err
	}
	defer func() { _ = delta.Close() }()
	contents := map[string]string{}
	for _, file := range delta.Files {
		text, err := file.Read(t.Context(), 1<<20)
		if err != nil {
			return nil, err
		}
		contents[file.Path] = string(text)
	}
	return contents, nil
}

// objectFile returns the loose file of a commit, its policies' tree, or a.yaml.
func objectFile(repo *gittest.Repo, commit, kind string) string {
	hash := commit
	switch kind {
	case "tree":
		hash = repo.Server("rev-parse", commit+":policies")
	case "blob":
		hash = repo.Server("rev-parse", commit+":policies/a.yaml")
	}
	return filepath.Join(repo.Bare(), "objects", hash[:2], hash[2:])
}

func move(t testing.TB, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// spoil replaces a file's content and returns a function that restores it.
func spoil(t testing.TB, file string, harm func([]byte) []byte) (restore func()) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(content []byte) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace(harm(append([]byte(nil), before...)))
	return func() { replace(before) }
}
