package git

import (
	"context"
	"fmt"
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
				time.Sleep(20 * time.Millisecond) // a run takes a while
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
