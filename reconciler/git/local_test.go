package git

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

func policy(n int) map[string]string {
	return map[string]string{"policies/a.yaml": fmt.Sprintf("n: %d\n", n)}
}

// A push, a forced push of a rewritten history, and a branch that is deleted and
// created again are detected and read, with a base that is no ancestor any more.
func TestPushesAreDetected(t *testing.T) {
	repo, first := pushed(t, policy(1))
	s := open(t, repo.Bare(), "policies")
	followed(t, s, first)
	quiet(s)

	second := repo.Commit("Second", policy(2))
	repo.Push()
	waitSignal(t, s)
	followed(t, s, second)

	repo.Git("reset", "-q", "--hard", first)
	rewritten := repo.Commit("Another second", policy(3))
	repo.ForcePush()
	followed(t, s, rewritten)
	if _, contents := mustDelta(t, s, second, rewritten); contents["policies/a.yaml"] != "n: 3\n" {
		t.Errorf("after the forced push got %q", contents)
	}

	// The base no longer exists, so the delta has all files.
	repo.Server("reflog", "expire", "--expire=now", "--all")
	repo.Server("gc", "-q", "--prune=now")
	delta, contents := mustDelta(t, s, second, rewritten)
	if delta.Base != "" || contents["policies/a.yaml"] != "n: 3\n" {
		t.Errorf("without the base commit got base %q and %q, want everything", delta.Base, contents)
	}

	quiet(s)
	repo.Server("update-ref", "-d", "refs/heads/main")
	waitSignal(t, s)
	_, err := s.Head(t.Context())
	wantError(t, err, "RepositoryEmpty", reconciler.WaitForPush)
	repo.Push()
	followed(t, s, rewritten)
}

// Refs are found in new nested folders, and while they move to packed-refs and back.
func TestNestedAndPackedRefs(t *testing.T) {
	repo, first := pushed(t, policy(1))
	s := New(repo.Bare(), "team/x/main", "policies", t.TempDir())
	if err := s.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err := s.Head(t.Context())
	wantError(t, err, "BranchMissing", reconciler.WaitForPush)
	if !strings.Contains(err.Error(), "main") {
		t.Errorf("the error does not name the existing branches: %v", err)
	}
	for n := range 5 {
		quiet(s)
		hash := repo.Commit(fmt.Sprint("Nested ", n), policy(n+2))
		repo.Git("push", "-q", "origin", "HEAD:refs/heads/team/x/main")
		waitSignal(t, s)
		followed(t, s, hash)
		// Packing removes the loose ref and its folders, and the next push makes them again.
		quiet(s)
		repo.Server("pack-refs", "--all", "--prune")
		if mustHead(t, s) != hash {
			t.Errorf("pack-refs changed the head")
		}
	}
	quiet(s)
	repo.Server("update-ref", "refs/heads/team/x/main", first)
	repo.Server("pack-refs", "--all", "--prune")
	waitSignal(t, s)
	followed(t, s, first)
}

// A burst of 200 pushes causes fewer signals, and the last push is not lost.
func TestBurst(t *testing.T) {
	repo, first := pushed(t, policy(1))
	second := repo.Commit("Second", policy(2))
	repo.Push()
	last := repo.Commit("Last", policy(3))
	repo.Git("push", "-q", "origin", "HEAD:refs/heads/elsewhere")
	s := open(t, repo.Bare(), "policies")
	followed(t, s, second)
	quiet(s)
	ctx, cancel := context.WithCancel(t.Context())
	var signals atomic.Int32
	var head atomic.Value
	var follower sync.WaitGroup
	follower.Go(func() {
		for {
			select {
			case <-s.Changed():
				signals.Add(1)
				if hash, err := s.Head(ctx); err == nil {
					head.Store(hash)
				}
				time.Sleep(20 * time.Millisecond) // a run takes its time
			case <-ctx.Done():
				return
			}
		}
	})
	var commands strings.Builder
	for i := range 200 {
		hash := first
		if i%2 == 1 {
			hash = second
		}
		fmt.Fprintf(&commands, "start\nupdate refs/heads/main %s\ncommit\n", hash)
	}
	fmt.Fprintf(&commands, "start\nupdate refs/heads/main %s\ncommit\n", last)
	gittest.Input(t, repo.Bare(), commands.String(), "update-ref", "--stdin")
	testtool.Eventually(t, "a signal comes after the last push", func() bool { return head.Load() == last })
	cancel()
	follower.Wait()
	if n := signals.Load(); n < 1 || n > 100 {
		t.Errorf("201 pushes gave %d signals, want between 1 and 100", n)
	}
}

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

// Deltas are complete and correct while git gc moves objects between loose
// files and packs.
func TestGCAtAnyMoment(t *testing.T) {
	files := map[string]string{}
	for i := range 60 {
		files[fmt.Sprintf("policies/%d.yaml", i)] = fmt.Sprintf("policy %d\n", i)
	}
	repo, first := pushed(t, files)
	s := open(t, repo.Bare(), "policies")
	// git forbids gc --prune=now during a push, but not during deltas.
	var pushing sync.Mutex
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				pushing.Lock()
				gittest.Run(t, repo.Bare(), "gc", "-q", "--prune=now")
				gittest.Run(t, repo.Bare(), "repack", "-adfq")
				pushing.Unlock()
			}
		}
	}()
	defer func() { close(stop); <-done }()
	previous := first
	for n := range 25 {
		name := fmt.Sprintf("policies/%d.yaml", n)
		hash := repo.Commit("Change", map[string]string{name: fmt.Sprint("changed ", n)})
		pushing.Lock()
		repo.Push()
		pushing.Unlock()
		_, contents := mustDelta(t, s, previous, hash)
		if len(contents) != 1 || contents[name] != fmt.Sprint("changed ", n) {
			t.Fatalf("push %d: the delta is %q", n, contents)
		}
		files[name] = contents[name]
		_, all := mustDelta(t, s, "", hash)
		for name, want := range files {
			if all[name] != want {
				t.Fatalf("push %d: %s reads %q, want %q", n, name, all[name], want)
			}
		}
		if n%5 == 0 {
			if _, err := s.Since(t.Context(), previous, hash); err != nil {
				t.Fatal(err)
			}
		}
		previous = hash
	}
}

// A repository may be bare, a clone with a work tree, or a linked work tree, and
// may have alternates.
func TestKindsOfRepository(t *testing.T) {
	repo, first := pushed(t, policy(1))
	repo.Git("branch", "-M", "main")
	linkedTree := filepath.Join(t.TempDir(), "linked")
	repo.Git("worktree", "add", "-q", "--detach", linkedTree)
	borrowed := filepath.Join(t.TempDir(), "borrowed")
	gittest.Run(t, t.TempDir(), "clone", "-q", "--shared", repo.Bare(), borrowed)
	for name, folder := range map[string]string{"bare": repo.Bare(), "work tree": repo.Work(), "linked work tree": linkedTree, "borrowed": borrowed, "file URL": "file://" + repo.Bare()} {
		t.Run(name, func(t *testing.T) {
			s := open(t, folder, "/policies/")
			followed(t, s, first)
			if _, contents := mustDelta(t, s, "", first); contents["policies/a.yaml"] != "n: 1\n" {
				t.Errorf("got %q", contents)
			}
			repo.Server("gc", "-q")
			if _, contents := mustDelta(t, s, "", first); contents["policies/a.yaml"] != "n: 1\n" {
				t.Errorf("after gc got %q", contents)
			}
		})
	}
	s := open(t, linkedTree, "policies")
	followed(t, s, first)
	second := repo.Commit("Second", policy(2))
	followed(t, s, second)
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
