package git

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// writeLoose writes an object that git itself would not write, and returns its hash.
func writeLoose(t testing.TB, gitFolder string, kind plumbing.ObjectType, content []byte) plumbing.Hash {
	t.Helper()
	var text bytes.Buffer
	compressor := zlib.NewWriter(&text)
	_, _ = fmt.Fprintf(compressor, "%s %d\x00%s", kind, len(content), content)
	_ = compressor.Close()
	hash := hashObject(kind, content)
	file := filepath.Join(gitFolder, "objects", hash.String()[:2], hash.String()[2:])
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return hash
}

// fsck returns what git fsck reports about trees, by their hashes.
func fsck(t testing.TB, gitFolder string) map[string]string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "git", "-C", gitFolder, "fsck", "--strict", "--no-dangling")
	command.Env = gittest.Environment()
	output, _ := command.CombinedOutput() // It fails, as it finds errors.
	found := map[string]string{}
	for _, match := range regexp.MustCompile(`in tree (\w{40}): (\w+)`).FindAllStringSubmatch(string(output), -1) {
		found[match[1]] += match[2] + " "
	}
	if len(found) == 0 {
		t.Fatalf("git fsck reports no tree: %s", output)
	}
	return found
}

// A folder that git fsck reports, because two readers may see different files in it, is not
// applied. The error names the folder, and the next sound commit is read.
func TestFoldersThatFsckReports(t *testing.T) {
	repo, first := pushed(t, policy(1))
	one := writeLoose(t, repo.Bare(), plumbing.BlobObject, []byte("one"))
	two := writeLoose(t, repo.Bare(), plumbing.BlobObject, []byte("two"))
	inside := append([]byte("100644 a.yaml\x00"), one[:]...)
	folder := writeLoose(t, repo.Bare(), plumbing.TreeObject, inside)
	entry := func(mode, name string, hash plumbing.Hash) string {
		return mode + " " + name + "\x00" + string(hash[:])
	}
	file := func(name string) string { return entry("100644", name, one) }
	type tree struct {
		name    string
		entries string
		// fsck is in what git reports, and says in the error.
		fsck, says string
	}
	cases := []tree{
		{"sound", file("a") + file("a.b") + entry("40000", "ab", folder) + file("ac"), "", ""},
		{"an empty folder", "", "", ""},
		{"two files of one name", file("a") + entry("100644", "a", two), "duplicateEntries", `two entries with the name "a"`},
		{"the same entry twice", file("a") + file("a"), "duplicateEntries", `two entries with the name "a"`},
		{"two folders of one name", entry("40000", "a", folder) + entry("40000", "a", folder), "duplicateEntries", `two entries with the name "a"`},
		{"a file and a folder of one name", file("a") + entry("40000", "a", folder), "duplicateEntries", `two entries with the name "a"`},
		{"a file and a folder of one name, with others between", file("a") + file("a-") + file("a-b") + file("a.b") + entry("40000", "a", folder), "duplicateEntries", `two entries with the name "a"`},
		{"a wrong order", file("b") + file("a"), "treeNotSorted", `"b" and "a" are not in git's order`},
		{"a folder in a file's place", entry("40000", "a", folder) + file("a.b"), "treeNotSorted", `"a" and "a.b" are not in git's order`},
		{"an empty name", file(""), "badTree", `the name ""`},
		{"a path for a name", file("a/b"), "fullPathname", `the name "a/b"`},
		{"the folder itself", file("."), "hasDot", `the name "."`},
		{"the folder above", entry("40000", "..", folder), "hasDotdot", `the name ".."`},
		{"no object", entry("100644", "a", plumbing.ZeroHash), "nullSha1", `"a" has no object`},
		{"git's own folder", entry("40000", ".git", folder), "hasDotgit", `".git", which git refuses`},
		{"an entry that is cut off", file("a")[:20], "badTree", "its last entry is cut off"},
		// Other readers take these for files of the same content.
		{"a mode of old gits", entry("100664", "a", one), "badFilemode", ""},
		{"a mode with a zero before it", entry("0100644", "a", one), "zeroPaddedFilemode", ""},
	}
	for _, name := range []string{".GIT", ".git ", ".git . .", "git~1", "GIT~1 ", ".git::$INDEX_ALLOCATION", `x\.git`, `.git\x`, ".g\u200cit", "\ufeff.Git"} {
		cases = append(cases, tree{"the name " + name, file(name), "hasDotgit", "which git refuses"})
	}
	for _, name := range []string{".gitt", "git", "git~2", ".gi\u200b", "..git", ".git-x", "x.git"} {
		cases = append(cases, tree{"the name " + name, file(name), "", ""})
	}
	commits := map[string]string{}
	for _, c := range cases {
		policies := writeLoose(t, repo.Bare(), plumbing.TreeObject, []byte(c.entries))
		root := writeLoose(t, repo.Bare(), plumbing.TreeObject, []byte(entry("40000", "policies", policies)))
		commits[c.name] = writeLoose(t, repo.Bare(), plumbing.CommitObject, fmt.Appendf(nil, "tree %s\nauthor Ada <ada@example.com> 1 +0000\ncommitter Ada <ada@example.com> 1 +0000\n\nx\n", root)).String()
	}
	reported := fsck(t, repo.Bare())
	s := open(t, repo.Bare(), "policies")
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			hash := hashObject(plumbing.TreeObject, []byte(c.entries)).String()
			if got := reported[hash]; (got == "") != (c.fsck == "") || !strings.Contains(got, c.fsck) {
				t.Errorf("git fsck reports %q, want %q", got, c.fsck)
			}
			for _, base := range []string{"", first} {
				delta, err := s.Delta(t.Context(), base, commits[c.name])
				if c.says == "" {
					if err != nil {
						t.Fatal(err)
					}
					_ = delta.Close()
					continue
				}
				if err == nil {
					t.Fatal("the folder was read")
				}
				wantError(t, err, "Corrupt", reconciler.WaitForPush)
				for _, part := range []string{c.says, `the folder "policies" (tree ` + hash} {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("the error does not have %q: %v", part, err)
					}
				}
			}
		})
	}
	if delta, _ := mustDelta(t, s, commits["two files of one name"], first); delta.Base != "" {
		t.Error("a folder that is not valid is compared with")
	}
}
