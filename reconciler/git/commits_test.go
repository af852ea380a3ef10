package git

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// messages are ends of commit messages with and without trailers. git
// interpret-trailers decides which of them allow pruning.
var messages = []string{
	"Subject",
	"hfi-allow-prune: true",
	"Subject\n\nhfi-allow-prune: true",
	"Subject\n\nhfi-allow-prune: true\n",
	"Subject\n\nhfi-allow-prune: true\n\n\n",
	"Subject\n\nHFI-Allow-Prune:true\n",
	"Subject\n\nhfi-allow-prune :  true  \n",
	"Subject\n\nhfi-allow-prune: false\n",
	"Subject\n\nhfi-allow-prune: TRUE\n",
	"Subject\n\nhfi-allow-prune: true, really\n",
	"Subject\n\nhfi-allow-prune:\n true\n",
	"Subject\n\nhfi-allow-prune: true\n more of it\n",
	"Subject\n\nBody.\n\nhfi-allow-prune: true\nSigned-off-by: Ada <ada@example.com>\n",
	"Subject\n\nBody.\nhfi-allow-prune: true\n",
	"Subject\n\nhfi-allow-prune: true\n\nBody after it.\n",
	"Subject\n\nBody about\nhfi-allow-prune: true\nand more\nand more\n",
	"Subject\n\n> hfi-allow-prune: true\n",
	"Subject\n\n  hfi-allow-prune: true\n",
	"Subject\n\nText\nSigned-off-by: Ada <ada@example.com>\nhfi-allow-prune: true\n",
	"Subject\n\nText\nText\nText\nText\nhfi-allow-prune: true\n(cherry picked from commit 1234567890)\n",
	"Subject\n\nhfi allow prune: true\n",
	"Subject\n\nhfi-allow-prune\n",
	"Subject\nhfi-allow-prune: true\n",
	"Subject\r\n\r\nhfi-allow-prune: true\r\n",
	"Subject\n \nhfi-allow-prune: true\n",
	"Subject\n\n---\nhfi-allow-prune: true\n",
	"\n\nSubject\n\nhfi-allow-prune: true\n",
	"Subject\n\nhfi-allow-prune: true\n# a comment\n",
	"Subject\n\n# a comment\nhfi-allow-prune: true\n",
	"Subject\n\nText\nText\n continued\nSigned-off-by: Ada <ada@example.com>\n continued\nhfi-allow-prune: true\n",
	"Subject\n\nOther: x\n\nhfi-allow-prune: true\n \n",
	"Subject\n\n: hfi-allow-prune: true\n",
	"Subject\n\nhfi-allow-prune: true\nhfi-allow-prune: false\n",
	"",
}

// A commit allows pruning if and only if git interpret-trailers finds the
// trailer in its message.
func TestTrailersAgreeWithGit(t *testing.T) {
	repo := gittest.New(t)
	random := rand.New(rand.NewPCG(1, 2))
	lines := []string{"", " ", "Subject", "hfi-allow-prune: true", "hfi-allow-prune: true", " true", "hfi-allow-prune:", "Key: value", " more", "# comment",
		"Signed-off-by: Ada <ada@example.com>", "(cherry picked from commit 12)", "Text that is none", "http://example.com"}
	all := slices.Clone(messages)
	for range 400 {
		message := "Subject\n\n"
		for range 1 + random.IntN(8) {
			message += lines[random.IntN(len(lines))] + "\n"
		}
		all = append(all, message)
	}
	for _, message := range all {
		want := false
		for line := range strings.Lines(repo.GitInput(message, "interpret-trailers", "--parse", "--no-divider")) {
			key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
			want = want || strings.EqualFold(strings.TrimSpace(key), "hfi-allow-prune") && strings.TrimSpace(value) == "true"
		}
		if got := allowsPrune(message); got != want {
			t.Errorf("message %q allows pruning: %t, with git: %t", message, got, want)
		}
	}
}

// Since returns the commits that git rev-list lists, with author and subject,
// across merges, from a local and a remote repository.
func TestSinceAgreesWithGit(t *testing.T) {
	repo, first := pushed(t, policy(1))
	repo.Git("checkout", "-q", "-b", "side")
	repo.Commit("On the side", map[string]string{"policies/side.yaml": "s"})
	side := repo.Commit("Side again\n\nhfi-allow-prune: true\n", map[string]string{"policies/side.yaml": "t"})
	repo.Git("checkout", "-q", "-b", "work", first)
	repo.Commit("Subject in two\nlines\n\nBody", policy(2))
	repo.Git("merge", "-q", "--no-edit", side)
	merged := repo.Head()
	head := repo.Commit("Bad bytes \xff\xfe in "+strings.Repeat("a long subject ", 30), policy(3))
	repo.Push()
	for name, url := range map[string]string{"local": repo.Bare(), "HTTP": gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL} {
		t.Run(name, func(t *testing.T) {
			s := open(t, url, "policies")
			for _, base := range []string{first, side, merged, head} {
				commits, err := s.Since(t.Context(), base, head)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, commit := range commits.List {
					got = append(got, commit.Hash)
					if commit.Author != "Ada Tester <ada@example.com>" {
						t.Errorf("author is %q", commit.Author)
					}
					if commit.AllowPrune != (commit.Hash == side) {
						t.Errorf("%q allows pruning: %t", commit.Subject, commit.AllowPrune)
					}
					if strings.Contains(commit.Subject, "\n") || len(commit.Subject) > 1000 || !strings.HasPrefix(repo.Git("log", "-1", "--format=%B", commit.Hash), commit.Subject[:3]) {
						t.Errorf("subject is %q", commit.Subject)
					}
				}
				if !commits.All || commits.Cut {
					t.Errorf("since %s: the list is said not to be all", base)
				}
				want := strings.Fields(repo.Git("rev-list", head, "^"+base))
				if len(got) > 0 && got[0] != head {
					t.Errorf("the first is %s, want head", got[0])
				}
				slices.Sort(got)
				slices.Sort(want)
				if !slices.Equal(got, want) {
					t.Errorf("since %s: got %v, git lists %v", base, got, want)
				}
			}
		})
	}
}

// Since returns at most MaxSince commits.
func TestSinceIsBounded(t *testing.T) {
	repo := gittest.New(t)
	var b strings.Builder
	for i := range 1100 {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter Ada <ada@example.com> %d +0000\ndata 1\nx\n\n", 1700000000+i)
	}
	gittest.Input(t, repo.Bare(), b.String(), "fast-import", "--quiet")
	commits := strings.Fields(repo.Server("rev-list", "main"))
	got, err := open(t, repo.Bare(), ".").Since(t.Context(), commits[len(commits)-1], commits[0])
	if err != nil || len(got.List) != 1000 || got.List[0].Hash != commits[0] || got.List[999].Hash != commits[999] || got.All || !got.Cut {
		t.Errorf("got %d commits, all %t, cut %t, and error %v, want the newest 1000", len(got.List), got.All, got.Cut, err)
	}
}

// A commit's author and subject are cut, because every status and etcd have them.
func TestAuthorAndSubjectAreBounded(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	said := describe(&object.Commit{Message: long + "\n\nmore", Author: object.Signature{Name: long, Email: long}}, nil, nil)
	if a, s := utf8.RuneCountInString(said.Author), utf8.RuneCountInString(said.Subject); a != 200 || s != 200 {
		t.Errorf("the author has %d letters and the subject %d", a, s)
	}
}

// Control characters of a commit's texts and of file names, with which they
// could command a terminal, are escaped where the commit is read.
func TestControlCharactersAreEscaped(t *testing.T) {
	repo := gittest.New(t)
	repo.Write(map[string]string{"policies/\u009b31m\x1b.yaml": "x"})
	repo.Git("add", "-A")
	repo.GitInput("Red \u009b31m\x1b[1m\x7f\u202etext\x9b\n\nmore", "commit", "-q", "-F", "-", "--author", "Eve\u0085 <e\x9c@example.com>")
	repo.Push()
	delta, _ := mustDelta(t, open(t, repo.Bare(), "policies"), "", repo.Head())
	for got, want := range map[string]string{
		delta.Commit.Subject: `Red \u009b31m\u001b[1m\u007f\u202etext\u009b`,
		delta.Commit.Author:  `Eve\u0085 <e\u009c@example.com>`,
		delta.Files[0].Path:  `policies/\u009b31m\u001b.yaml`,
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// A message of many lines takes no more time than its size, and one that is far
// too long is not read.
func TestLongMessages(t *testing.T) {
	repo, _ := pushed(t, policy(1))
	s := open(t, repo.Bare(), "policies")
	commit := func(message string) string {
		hash := strings.TrimSpace(gittest.Input(t, repo.Bare(), message, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit-tree", "main^{tree}", "-p", "main"))
		repo.Server("update-ref", "refs/heads/main", hash)
		return hash
	}
	const title = "Remove all\n\n"
	delta, _ := mustDelta(t, s, "", commit(title+"hfi-allow-prune:\n"+strings.Repeat(" x\n", maxCommit/4)+"hfi-allow-prune: true\n"))
	if !delta.Commit.AllowPrune {
		t.Error("the trailer was not found")
	}
	_, err := s.Delta(t.Context(), "", commit(title+strings.Repeat("x", maxCommit)))
	wantError(t, err, "Unsupported", reconciler.WaitForPush)
	mustDelta(t, s, "", commit(title))
}
