package git

import (
	"fmt"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// corner creates a repository with many policies in one folder and many other
// files, packed as after a first push, and then pushes two commits that change
// one policy each. It returns the three commits.
func corner(t testing.TB, policies, others int) (repo *gittest.Repo, first, second, third string) {
	t.Helper()
	repo = gittest.New(t)
	var b strings.Builder
	b.WriteString("commit refs/heads/main\ncommitter Ada <ada@example.com> 1700000000 +0000\ndata 1\nx\n")
	for i := range policies {
		content := fmt.Sprintf("metadata:\n  name: policy-%d\nspec:\n  rules:\n    - fault: {delay_ms: %d}\n", i, i+1)
		fmt.Fprintf(&b, "M 100644 inline policies/policy-%d.yaml\ndata %d\n%s\n", i, len(content), content)
	}
	for i := range others {
		content := fmt.Sprintf("file %d\n", i)
		fmt.Fprintf(&b, "M 100644 inline other/%d/%d/%d.txt\ndata %d\n%s\n", i/1000, i/100%10, i, len(content), content)
	}
	b.WriteString("\n")
	gittest.Input(t, repo.Bare(), b.String(), "fast-import", "--quiet")
	repo.Server("repack", "-adq")
	repo.Git("fetch", "-q", "origin", "main")
	first = repo.Git("rev-parse", "FETCH_HEAD")
	second, third = pushOne(t, repo, first, "one"), pushOne(t, repo, first, "two")
	return repo, first, second, third
}

// pushOne pushes a commit that changes only policy-0, without a checkout.
func pushOne(t testing.TB, repo *gittest.Repo, parent, content string) string {
	t.Helper()
	repo.Git("read-tree", parent)
	blob := repo.GitInput(content, "hash-object", "-w", "--stdin")
	repo.Git("update-index", "--add", "--cacheinfo", "100644,"+blob+",policies/policy-0.yaml")
	hash := repo.Git("commit-tree", "-p", parent, "-m", content, repo.Git("write-tree"))
	repo.Git("push", "-q", "--force", "origin", hash+":refs/heads/main")
	return hash
}

// BenchmarkDelta measures a push that changes one policy, from the commits'
// hashes to its content, in folders and repositories of several sizes.
func BenchmarkDelta(b *testing.B) {
	for _, size := range []struct{ policies, others int }{{100, 0}, {10_000, 0}, {100, 100_000}} {
		b.Run(fmt.Sprintf("policies=%d/others=%d", size.policies, size.others), func(b *testing.B) {
			repo, first, second, third := corner(b, size.policies, size.others)
			s := open(b, repo.Bare(), "policies")
			mustDelta(b, s, "", first)
			b.ReportAllocs()
			for b.Loop() {
				// As after a push: the base's trees are remembered, and head's are new.
				b.StopTimer()
				s.trees.young, s.trees.old, s.trees.size = nil, nil, 0
				mustDelta(b, s, first, second)
				b.StartTimer()
				if _, contents := mustDelta(b, s, second, third); len(contents) != 1 {
					b.Fatalf("%d files differ, want 1", len(contents))
				}
			}
		})
	}
}
