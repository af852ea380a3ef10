package git

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
)

// A repository that is replaced, itself or with a parent folder, is watched
// again, though the old one's watch has no event of it.
func TestReplacedRepositoryIsWatched(t *testing.T) {
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
			// The start of the new watch sends one signal.
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
