package git

import (
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

func commitIndex(repo *gittest.Repo) string {
	repo.Git("commit", "-q", "-m", "Change the index")
	return repo.Head()
}

// A commit that removes the policy folder deletes all its files; of every
// commit of the branch it is known whether it had the folder, also by a source
// that starts after the removal. Something else in place of the folder is an
// error: policies that a link leads to are not gone.
func TestRemovedFolder(t *testing.T) {
	local := func(t *testing.T, repo *gittest.Repo) string { return repo.Bare() }
	remote := func(t *testing.T, repo *gittest.Repo) string {
		return gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL
	}
	for name, serve := range map[string]func(*testing.T, *gittest.Repo) string{"local": local, "remote": remote} {
		t.Run(name, func(t *testing.T) {
			repo := gittest.New(t)
			before := repo.Commit("Begin", map[string]string{"README": "x"})
			with := repo.Commit("Add policies", map[string]string{"team/policies/a.yaml": "n: 1\n", "team/policies/b/c.yaml": "n: 2\n"})
			repo.Push()
			url := serve(t, repo)
			s := open(t, url, "team/policies")
			mustDelta(t, s, "", with)
			repo.Git("rm", "-rq", "team")
			gone := repo.Commit("Remove all policies", nil)
			repo.Push()
			delta, _ := mustDelta(t, s, with, gone)
			wantError(t, delta.Missing, "PathMissing", reconciler.WaitForPush)
			if delta.Base != with || len(delta.Files) != 2 || !delta.Files[0].Deleted || !delta.Files[1].Deleted {
				t.Errorf("the delta from %q has %+v, want the deletions of both files", delta.Base, delta.Files)
			}
			for _, s := range []*Source{s, open(t, url, "team/policies")} {
				for commit, want := range map[string]bool{before: false, with: true, gone: false, "0123456789012345678901234567890123456789": false} {
					if got, err := s.HasFolder(t.Context(), commit); got != want || err != nil {
						t.Errorf("commit %s has the folder: %v (%v), want %v", commit, got, err, want)
					}
				}
			}
			if got, err := open(t, url, "polices").HasFolder(t.Context(), with); got || err != nil {
				t.Errorf("a folder that never was there was there: %v (%v)", got, err)
			}
			repo.Git("config", "core.symlinks", "true")
			blob := repo.GitInput("elsewhere", "hash-object", "-w", "--stdin")
			repo.Git("update-index", "--add", "--cacheinfo", "120000,"+blob+",team/policies")
			link := commitIndex(repo)
			repo.Push()
			_, err := s.Delta(t.Context(), gone, link)
			wantError(t, err, "PathNotAFolder", reconciler.WaitForPush)
		})
	}
}
