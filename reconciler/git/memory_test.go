package git

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// longHistory creates a repository of many commits, each of which changes one of
// its policies, and returns them, oldest first.
func longHistory(t testing.TB, policies, commits int) (*gittest.Repo, []string) {
	t.Helper()
	repo := gittest.New(t)
	var b strings.Builder
	for n := range commits {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter Ada <ada@example.com> %d +0000\ndata 1\nx\n", 1700000000+n)
		for i := range policies {
			if n > 0 && i != n%policies {
				continue
			}
			content := fmt.Sprintf("metadata:\n  name: policy-%d\nspec:\n  rules:\n    - fault: {delay_ms: %d}\n", i, n+1)
			fmt.Fprintf(&b, "M 100644 inline policies/policy-%d.yaml\ndata %d\n%s\n", i, len(content), content)
		}
		b.WriteString("\n")
	}
	gittest.Input(t, repo.Bare(), b.String(), "fast-import", "--quiet")
	return repo, strings.Fields(repo.Server("rev-list", "--reverse", "main"))
}

// live is the memory in use after a collection, in bytes.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// Memory does not grow with the number of commits followed, packed or not.
func TestMemoryIsBounded(t *testing.T) {
	commits := 2000
	if testtool.Slow() {
		commits = 15_000
	}
	const measured, limit = 500, 4 << 20
	repo, hashes := longHistory(t, 100, commits)
	for _, packed := range []bool{true, false} {
		if !packed {
			explode(t, repo)
		}
		s := open(t, repo.Bare(), "policies")
		base, before := "", int64(0)
		for n, hash := range hashes {
			mustDelta(t, s, base, hash)
			if base = hash; n == measured {
				before = live()
			}
		}
		if grown := live() - before; grown > limit {
			t.Errorf("packed: %v, from %d to %d commits memory grew by %d bytes, want at most %d", packed, measured, commits, grown, limit)
		}
		runtime.KeepAlive(s)
	}
}
