package gittest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// The git command can clone from the servers, so that a failure of another test
// is not theirs.
func TestStockGitClones(t *testing.T) {
	repo := New(t)
	hash := repo.Commit("Add a file", map[string]string{"policies/a b.yaml": "x"})
	repo.Push()
	clone := func(t *testing.T, url string, environment ...string) string {
		t.Helper()
		folder := t.TempDir()
		command := exec.Command("git", "clone", "-q", url, folder)
		command.Env = append(Environment(), environment...)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("cloning %s: %v\n%s", url, err, out)
		}
		return Run(t, folder, "rev-parse", "HEAD")
	}
	t.Run("HTTP", func(t *testing.T) {
		server := ServeHTTP(t, repo, HTTP{User: "ada", Password: "secret"})
		if got := clone(t, strings.Replace(server.URL, "://", "://ada:secret@", 1)); got != hash {
			t.Errorf("cloned %s, want %s", got, hash)
		}
	})
	t.Run("HTTPS", func(t *testing.T) {
		server := ServeHTTP(t, repo, HTTP{User: "ada", Password: "secret", TLS: true})
		if got := clone(t, strings.Replace(server.URL, "://", "://ada:secret@", 1), "GIT_SSL_CAINFO="+server.CAFile); got != hash {
			t.Errorf("cloned %s, want %s", got, hash)
		}
	})
	t.Run("SSH", func(t *testing.T) {
		if _, err := exec.LookPath("ssh"); err != nil {
			testtool.Lacks(t, "there is no ssh command")
		}
		server := ServeSSH(t, repo)
		command := "ssh -F none -o IdentitiesOnly=yes -o UserKnownHostsFile=" + server.KnownHostsFile + " -i " + server.KeyFile
		if got := clone(t, server.URL, "GIT_SSH_COMMAND="+command); got != hash {
			t.Errorf("cloned %s, want %s", got, hash)
		}
	})
}

func TestCommitRemoveAndRevert(t *testing.T) {
	repo := New(t)
	repo.Commit("One", map[string]string{"a": "1", "b/c": ""})
	removed := repo.Remove("Less", "b")
	if got := repo.Git("ls-tree", "-r", "--name-only", "HEAD"); got != "a" {
		t.Errorf("after the removal the files are %q, want only a", got)
	}
	repo.Revert(removed)
	repo.Push()
	if got := repo.Server("ls-tree", "-r", "--name-only", "main"); got != "a\nb/c" {
		t.Errorf("after the revert the files are %q, want a and b/c", got)
	}
	if _, err := os.Stat(repo.Bare()); err != nil {
		t.Error(err)
	}
}
