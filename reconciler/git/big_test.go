package git

import (
	"slices"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// After the first delta, a changed policy costs the same in a repository with
// 100,000 other files as in a small one, loose or packed, local or remote. The
// ratio allows for a busy machine.
func TestChangeInALargeRepository(t *testing.T) {
	testtool.SlowOnly(t)
	small, smallCommits := cornerOf(t, 0)
	big, bigCommits := cornerOf(t, 100_000)
	compare := func(t *testing.T, a, b time.Duration) {
		t.Helper()
		t.Logf("small %v, big %v", a, b)
		if b > 3*a+20*time.Millisecond {
			t.Errorf("a change takes %v in the large repository and %v in the small one", b, a)
		}
	}
	compare(t, medianDelta(t, small.Bare(), smallCommits), medianDelta(t, big.Bare(), bigCommits))
	t.Run("packed", func(t *testing.T) {
		small.Server("repack", "-adq")
		big.Server("repack", "-adq")
		compare(t, medianDelta(t, small.Bare(), smallCommits), medianDelta(t, big.Bare(), bigCommits))
	})
	t.Run("remote", func(t *testing.T) {
		compare(t, medianPush(t, small, smallCommits[0]), medianPush(t, big, bigCommits[0]))
	})
}

func cornerOf(t *testing.T, others int) (*gittest.Repo, [3]string) {
	repo, first, second, third := corner(t, 100, others)
	// Unreachable commits would be lost in a repack.
	repo.Git("push", "-q", "origin", second+":refs/heads/second")
	return repo, [3]string{first, second, third}
}

// medianDelta returns the time of a small delta with its content, after the first delta.
func medianDelta(t *testing.T, url string, commits [3]string) time.Duration {
	t.Helper()
	s := open(t, url, "policies")
	mustDelta(t, s, "", commits[0])
	var took []time.Duration
	for i := range 21 {
		began := time.Now()
		if _, contents := mustDelta(t, s, commits[1+i%2], commits[2-i%2]); len(contents) != 1 {
			t.Fatalf("%d files differ, want 1", len(contents))
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2]
}

// medianPush returns the time of a delta that fetches a push, without git's time on the server.
func medianPush(t *testing.T, repo *gittest.Repo, parent string) time.Duration {
	t.Helper()
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	s := open(t, server.URL, "policies")
	head := pushOne(t, repo, parent, "begin")
	mustDelta(t, s, "", head)
	var took []time.Duration
	for i := range 7 {
		next := pushOne(t, repo, head, string(rune('a'+i)))
		began := time.Now()
		if delta, contents := mustDelta(t, s, head, next); len(contents) != 1 || delta.Base != head {
			t.Fatalf("%d files differ, want 1", len(contents))
		}
		took = append(took, time.Since(began))
		head = next
	}
	slices.Sort(took)
	return took[len(took)/2]
}
