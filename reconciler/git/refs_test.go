package git

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// A branch's file that a crash or a full disk left empty is an error. The older
// commit in packed-refs is not used instead, which would be a rollback that
// nobody pushed.
func TestDamagedRefIsNoRollback(t *testing.T) {
	repo, first := pushed(t, map[string]string{"policies/a.yaml": "1"})
	repo.Server("pack-refs", "--all")
	second := repo.Commit("Go on", map[string]string{"policies/a.yaml": "2"})
	repo.Push()
	s := open(t, repo.Bare(), "policies")
	for _, content := range []string{"", "\n", "nonsense\n", second[:39] + "\n", "ref: ../../config\n", strings.Repeat("0", 40) + "\n"} {
		if err := os.WriteFile(filepath.Join(repo.Bare(), "refs/heads/main"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		head, err := s.Head(t.Context())
		if head == first {
			t.Errorf("with the content %q head is the packed ref", content)
		}
		wantError(t, err, "Corrupt", reconciler.Stalled)
	}
	if err := os.WriteFile(filepath.Join(repo.Bare(), "refs/heads/main"), []byte(second+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := mustHead(t, s); got != second {
		t.Errorf("once repaired, head is %s, want %s", got, second)
	}
}

// Head agrees with git, whether the ref is in a file, in packed-refs beside an
// empty folder of its name, or symbolic.
func TestHeadAgreesWithGit(t *testing.T) {
	repo, hash := pushed(t, map[string]string{"policies/a.yaml": "1"})
	s := open(t, repo.Bare(), "policies")
	check := func(how string) {
		t.Helper()
		if got, want := mustHead(t, s), repo.Server("rev-parse", "refs/heads/main"); got != want {
			t.Errorf("%s: head is %s, with git %s", how, got, want)
		}
	}
	check("in a file")
	repo.Server("pack-refs", "--all")
	check("packed")
	if err := os.MkdirAll(filepath.Join(repo.Bare(), "refs/heads/main"), 0o755); err != nil {
		t.Fatal(err)
	}
	check("packed, beside a folder")
	if err := os.Remove(filepath.Join(repo.Bare(), "refs/heads/main")); err != nil {
		t.Fatal(err)
	}
	other := repo.Commit("Elsewhere", map[string]string{"policies/a.yaml": "2"})
	repo.Git("push", "-q", "origin", other+":refs/heads/other")
	repo.Server("symbolic-ref", "refs/heads/main", "refs/heads/other")
	check("symbolic")
	if got := mustHead(t, s); got != other || got == hash {
		t.Errorf("head is %s, want %s", got, other)
	}
	repo.Server("symbolic-ref", "refs/heads/main", "refs/heads/main2")
	repo.Server("symbolic-ref", "refs/heads/main2", "refs/heads/main")
	_, err := s.Head(t.Context())
	wantError(t, err, "BranchMissing", reconciler.Stalled)
	gittest.Run(t, repo.Bare(), "symbolic-ref", "refs/heads/main", "refs/heads/nowhere")
	_, err = s.Head(t.Context())
	wantError(t, err, "BranchMissing", reconciler.WaitForPush)
}

// Tags, light and annotated, and any other reference are followed by their full
// names, and the commits are those that git has. A branch's name never leads to
// a tag: one that is deleted would turn into an older commit.
func TestFullReferences(t *testing.T) {
	repo, first := pushed(t, policy(1))
	repo.Git("tag", "light")
	repo.Git("tag", "-m", "A tag", "annotated")
	repo.Git("tag", "-m", "A tag of a tag", "twice", "annotated")
	repo.Git("push", "-q", "origin", "--tags", "HEAD:refs/environments/production")
	names := []string{"refs/tags/light", "refs/tags/annotated", "refs/tags/twice", "refs/environments/production", "refs/heads/main"}
	remote := gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL
	second := repo.Commit("Second", policy(2))
	for _, url := range []string{repo.Bare(), remote} {
		for _, name := range names {
			s := open(t, url, "policies", func(s *Source) { s.branch = New("x", name, "x", "x").branch })
			if got := mustHead(t, s); got != first {
				t.Errorf("%s: %s is %s, with git %s", url, name, got, first)
			}
			if _, contents := mustDelta(t, s, "", first); len(contents) != 1 {
				t.Errorf("%s: %s has %q", url, name, contents)
			}
			repo.Git("push", "-q", "--force", "origin", second+":"+name)
			if got := mustHead(t, s); got != second {
				t.Errorf("%s: %s is %s after a move, want %s", url, name, got, second)
			}
			if delta, _ := mustDelta(t, s, first, second); delta.Base != first {
				t.Errorf("%s: %s: the delta is from %q, want %q", url, name, delta.Base, first)
			}
			old := first
			if strings.HasPrefix(name, "refs/tags/") {
				old = repo.Git("rev-parse", name)
			}
			repo.Git("push", "-q", "--force", "origin", old+":"+name)
		}
		_, err := open(t, url, "policies", func(s *Source) { s.branch = New("x", "light", "x", "x").branch }).Head(t.Context())
		wantError(t, err, "BranchMissing", reconciler.WaitForPush)
		if !strings.Contains(err.Error(), "--branch refs/tags/light") {
			t.Errorf("the error does not name the tag: %v", err)
		}
		_, err = open(t, url, "policies", func(s *Source) { s.branch = "refs/tags/none" }).Head(t.Context())
		wantError(t, err, "BranchMissing", reconciler.WaitForPush)
	}
	repo.Server("gc", "-q")
	s := open(t, repo.Bare(), "policies", func(s *Source) { s.branch = "refs/tags/twice" })
	if got := mustHead(t, s); got != first {
		t.Errorf("packed, the tag is %s, want %s", got, first)
	}
}

// A branch that points to something else than a commit, which git itself does not write, is
// not called damaged.
func TestBranchThatIsNoCommit(t *testing.T) {
	repo, first := pushed(t, policy(1))
	repo.Server("tag", "-a", "-m", "a tag", "v1", "main")
	server := gittest.ServeHTTP(t, repo, gittest.HTTP{})
	branch := filepath.Join(repo.Bare(), "refs/heads/main")
	for _, packed := range []bool{false, true} {
		for kind, name := range map[string]string{"tag": "v1", "tree": "v1^{tree}", "blob": "v1:policies/a.yaml"} {
			for _, url := range []string{repo.Bare(), server.URL} {
				if kind != "tag" && url == server.URL {
					continue // git does not serve it.
				}
				hash := repo.Server("rev-parse", name)
				if packed {
					repo.Server("gc", "-q")
				}
				s := open(t, url, "policies")
				restore := put(t, branch, hash)
				head, err := s.Head(t.Context())
				if err == nil {
					_, err = s.Delta(t.Context(), first, head)
				}
				if err == nil {
					t.Fatalf("packed %v: a branch that points to a %s was read", packed, kind)
				}
				wantError(t, err, "NotACommit", reconciler.WaitForPush)
				if want := fmt.Sprintf("branch main points to the %s %s and not to a commit", kind, hash); !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not have %q: %v", want, err)
				}
				restore()
				mustDelta(t, s, "", mustHead(t, s))
			}
		}
	}
}

// put writes a loose reference, and returns a function that makes it what it was.
func put(t testing.TB, file, hash string) (restore func()) {
	t.Helper()
	before, err := os.ReadFile(file)
	if err != nil {
		before = nil
	}
	if err := os.WriteFile(file, []byte(hash+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		err := os.Remove(file)
		if before != nil {
			err = os.WriteFile(file, before, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
