package git

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// A repository that is replaced, alone or by a folder above it, is followed
// again where it now stands; the watch on the old one tells nothing of it.
func TestReplacedRepositoryIsFollowed(t *testing.T) {
	repo, first := pushed(t, map[string]string{"policies/a.yaml": "1"})
	for name, replaced := range map[string]string{"itself": "top/policies.git", "a folder above": "top"} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			where := filepath.Join(folder, "top/policies.git")
			clone := func() {
				t.Helper()
				if err := os.MkdirAll(filepath.Dir(where), 0o755); err != nil {
					t.Fatal(err)
				}
				gittest.Run(t, folder, "clone", "-q", "--bare", repo.Bare(), where)
			}
			clone()
			s := open(t, where, "policies")
			followed(t, s, first)
			quiet(s)
			if err := os.Rename(filepath.Join(folder, replaced), filepath.Join(folder, "away")); err != nil {
				t.Fatal(err)
			}
			clone()
			// The new repository is told of once when its watch begins.
			waitSignal(t, s)
			quiet(s)
			for _, content := range []string{"2", "3"} {
				hash := repo.Commit("Change", map[string]string{"policies/a.yaml": name + content})
				repo.Git("push", "-q", "--force", where, "HEAD:refs/heads/main")
				waitSignal(t, s)
				followed(t, s, hash)
				quiet(s)
			}
		})
	}
}
