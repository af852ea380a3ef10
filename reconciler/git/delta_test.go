package git

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/reconciler"
)

// names for random trees: kinds that git accepts and a careless parser breaks.
// The last is not UTF-8.
var names = []string{
	"a", "a.yaml", "a-b", "ab", "b c.yaml", "line\nbreak.json", "tab\t.yaml", "c1\u009b.yaml", "\u202egnp.yaml", "Übung.yaml", "日本", `quo"te.yaml`, `back\slash`, ".dot", "bad\xff\xfe.yaml",
}

// history creates random commits with fast-import, which accepts any path and mode.
type history struct {
	random *rand.Rand
	files  map[string]string // path → mode SP content
}

// step changes some paths. A file may become a folder and a folder a file.
func (h *history) step() (deleted []string, set map[string]string) {
	set = map[string]string{}
	for range 1 + h.random.IntN(6) {
		if h.random.IntN(3) == 0 && len(h.files) > 0 {
			paths := slices.Sorted(maps.Keys(h.files))
			path := paths[h.random.IntN(len(paths))]
			delete(h.files, path)
			delete(set, path)
			deleted = append(deleted, path)
			continue
		}
		parts := []string{[]string{"policies", "policies", "policies", "policies2", "other"}[h.random.IntN(5)]}
		for range 1 + h.random.IntN(3) {
			parts = append(parts, names[h.random.IntN(len(names))])
		}
		path := strings.Join(parts, "/")
		for other := range h.files {
			if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
				delete(h.files, other)
				delete(set, other)
				deleted = append(deleted, other)
			}
		}
		content := fmt.Sprintf("%s content %d", []string{"100644", "100644", "100644", "100755", "120000", "160000"}[h.random.IntN(6)], h.random.IntN(5))
		h.files[path], set[path] = content, content
	}
	return deleted, set
}

// quote writes a path for fast-import.
func quote(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(path) {
		if c := path[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (h *history) stream(commits int) string {
	var b strings.Builder
	for i := range commits {
		fmt.Fprintf(&b, "commit refs/heads/main\ncommitter Ada <ada@example.com> %d +0000\ndata 1\nx\n", 1700000000+i)
		gone, set := h.step()
		for _, path := range gone {
			fmt.Fprintf(&b, "D %s\n", quote(path))
		}
		for _, path := range slices.Sorted(maps.Keys(set)) {
			mode, content, _ := strings.Cut(set[path], " ")
			if mode == "160000" {
				fmt.Fprintf(&b, "M 160000 %040x %s\n", len(content)+int(content[len(content)-1]), quote(path))
				continue
			}
			fmt.Fprintf(&b, "M %s inline %s\ndata %d\n%s\n", mode, quote(path), len(content), content)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// rawDiff returns git's diff in the form of Delta's files: path → mode and blob, or "gone".
func rawDiff(t testing.TB, repo *gittest.Repo, base, head, folder string) map[string]string {
	t.Helper()
	want := map[string]string{}
	if base == "" {
		listing := repo.Server("ls-tree", "-r", "-z", "--full-tree", head, "--", folder)
		for entry := range strings.SplitSeq(strings.TrimSuffix(listing, "\x00"), "\x00") {
			if entry == "" {
				continue
			}
			meta, path, _ := strings.Cut(entry, "\t")
			fields := strings.Fields(meta)
			want[path] = fields[0] + " " + fields[2]
		}
		return want
	}
	parts := strings.Split(repo.Server("diff", "--raw", "-z", "--no-renames", "--no-abbrev", "--ignore-submodules=none", base, head, "--", folder), "\x00")
	for i := 0; i+1 < len(parts); i += 2 {
		fields := strings.Fields(parts[i])
		want[parts[i+1]] = fields[1] + " " + fields[3]
		if fields[4] == "D" {
			want[parts[i+1]] = "gone"
		}
	}
	return want
}

// inForm returns a delta's files in rawDiff's form. A delta may or may not
// report a change of a regular file's permissions alone, so they are not compared.
func inForm(t testing.TB, delta *reconciler.Delta) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, file := range delta.Files {
		file.Path = unescaped(t, file.Path)
		if _, twice := got[file.Path]; twice {
			t.Errorf("%q is in the delta twice", file.Path)
		}
		blob, _, _ := strings.Cut(file.ID, ":")
		switch {
		case file.Deleted:
			got[file.Path] = "gone"
		case strings.Contains(file.Refusal, "symbolic link"):
			got[file.Path] = "120000 " + blob
		case strings.Contains(file.Refusal, "submodule"):
			got[file.Path] = "160000 " + blob
		default:
			got[file.Path] = "regular " + blob
		}
	}
	return got
}

// unescaped returns the name that a file has in git.
func unescaped(t testing.TB, path string) string {
	t.Helper()
	name, err := strconv.Unquote(`"` + strings.ReplaceAll(path, `"`, `\"`) + `"`)
	if err != nil {
		t.Fatalf("the path %q: %v", path, err)
	}
	return name
}

func normal(want map[string]string) map[string]string {
	for path, value := range want {
		for _, mode := range []string{"100644", "100755"} {
			if blob, regular := strings.CutPrefix(value, mode+" "); regular {
				want[path] = "regular " + blob
			}
		}
	}
	return want
}

// A delta has the same differences as git diff, over random histories with all
// kinds of names, modes and swaps, between any two commits, and its files have
// the same content as in git.
func TestDeltaAgreesWithGit(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := &history{random: rand.New(rand.NewPCG(seed, 1)), files: map[string]string{}}
			repo := gittest.New(t)
			gittest.Input(t, repo.Bare(), h.stream(40), "fast-import", "--quiet", "--date-format=raw-permissive")
			if seed%2 == 0 {
				explode(t, repo)
			}
			commits := strings.Fields(repo.Server("rev-list", "main"))
			for _, folder := range []string{"policies", ".", "policies/a"} {
				s := open(t, repo.Bare(), folder)
				compared := 0
				for range 30 {
					head := commits[h.random.IntN(len(commits))]
					base := append([]string{""}, commits...)[h.random.IntN(len(commits)+1)]
					if folder != "." && len(rawDiff(t, repo, "", head, folder)) == 0 || folder == "policies/a" && !isTree(repo, head, folder) {
						delta, err := s.Delta(t.Context(), base, head)
						if repo.Server("ls-tree", head, "--", folder) != "" {
							wantError(t, err, "PathNotAFolder", reconciler.WaitForPush)
							continue
						}
						if err != nil {
							t.Fatal(err)
						}
						wantError(t, delta.Missing, "PathMissing", reconciler.WaitForPush)
						for _, file := range delta.Files {
							if !file.Deleted {
								t.Errorf("a commit without the folder has %q", file.Path)
							}
						}
						_ = delta.Close()
						continue
					}
					delta, contents := mustDelta(t, s, base, head)
					if delta.Base != base {
						t.Fatalf("the delta is from %q, want %q", delta.Base, base)
					}
					want := normal(rawDiff(t, repo, base, head, folder))
					if folder == "policies/a" && base != "" && !isTree(repo, base, folder) {
						// To git a file under the folder's own name matches the path too; to hfi it is not in the folder.
						delete(want, folder)
					}
					if diff := cmp.Diff(want, inForm(t, delta)); diff != "" {
						t.Fatalf("%s, from %q to %s: git (-) and the delta (+) differ:\n%s", folder, base, head, diff)
					}
					for path, content := range contents {
						path = unescaped(t, path)
						if got := repo.Server("cat-file", "blob", strings.TrimPrefix(want[path], "regular ")); got != content {
							t.Fatalf("%q reads %q, with git %q", path, content, got)
						}
						break // one of each delta: a process for each file is slow
					}
					compared++
				}
				if compared == 0 && folder != "policies/a" {
					t.Errorf("nothing was compared in %s", folder)
				}
			}
		})
	}
}

func isTree(repo *gittest.Repo, commit, folder string) bool {
	return strings.Contains(repo.Server("ls-tree", "-d", commit, "--", folder), " tree ")
}

// explode unpacks a repository's packs into loose objects.
func explode(t testing.TB, repo *gittest.Repo) {
	t.Helper()
	for i, pack := range glob(t, filepath.Join(repo.Bare(), "objects/pack/*.pack")) {
		// Objects that git finds in a pack it does not unpack again.
		away := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.Rename(pack, away); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(strings.TrimSuffix(pack, ".pack") + ".idx"); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(away)
		if err != nil {
			t.Fatal(err)
		}
		gittest.Input(t, repo.Bare(), string(text), "unpack-objects", "-q")
	}
	if left := glob(t, filepath.Join(repo.Bare(), "objects/pack/*")); len(left) > 0 {
		t.Fatalf("packs are left: %v", left)
	}
}

// Read may be called concurrently, on the files of several deltas too.
func TestConcurrentReads(t *testing.T) {
	files := map[string]string{}
	for i := range 200 {
		files[fmt.Sprintf("policies/%d.yaml", i)] = strings.Repeat(fmt.Sprint("policy ", i, "\n"), 50)
	}
	repo, head := pushed(t, files)
	repo.Server("gc", "-q")
	s := open(t, repo.Bare(), "policies")
	delta, err := s.Delta(t.Context(), "", head)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = delta.Close() }()
	done := make(chan error, 8)
	for worker := range cap(done) {
		go func() {
			for i := range delta.Files {
				file := delta.Files[(i+worker*25)%len(delta.Files)]
				text, err := file.Read(t.Context(), 1<<20)
				if err == nil && !bytes.Equal(text, []byte(files[file.Path])) {
					err = fmt.Errorf("%s reads %q", file.Path, text)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// If the repository is the root of a CUE module, CUE files count everywhere in
// it, and other files only in the policy folder.
func TestCUEFilesAroundThePolicyFolder(t *testing.T) {
	repo, first := pushed(t, map[string]string{
		"cue.mod/module.cue": "m", "cue.mod/pkg/x/y/policy.cue": "p", "lib/defs.cue": "d", "lib/readme.md": "r",
		"policies/a.yaml": "a", "policies/pkg/b.cue": "b", "policies/notes.txt": "n",
	})
	s := open(t, repo.Bare(), "policies")
	_, contents := mustDelta(t, s, "", first)
	want := map[string]string{
		"cue.mod/module.cue": "m", "cue.mod/pkg/x/y/policy.cue": "p", "lib/defs.cue": "d",
		"policies/a.yaml": "a", "policies/pkg/b.cue": "b", "policies/notes.txt": "n",
	}
	if diff := cmp.Diff(want, contents); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	second := repo.Commit("Change around", map[string]string{"lib/defs.cue": "d2", "lib/readme.md": "r2"})
	repo.Push()
	_, contents = mustDelta(t, s, first, second)
	if diff := cmp.Diff(map[string]string{"lib/defs.cue": "d2"}, contents); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	third := repo.Remove("No module any more", "cue.mod", "lib")
	repo.Push()
	delta, _ := mustDelta(t, s, second, third)
	// The set of files that count changed, so all of them are listed.
	if diff := cmp.Diff(slices.Sorted(maps.Keys(inForm(t, delta))), []string{"policies/a.yaml", "policies/notes.txt", "policies/pkg/b.cue"}); diff != "" || delta.Base != "" {
		t.Errorf("the base is %q; got (-), want (+):\n%s", delta.Base, diff)
	}
	fourth := repo.Commit("CUE files, no module", map[string]string{"lib/defs.cue": "d3", "policies/a.yaml": "a2"})
	repo.Push()
	_, contents = mustDelta(t, s, third, fourth)
	if diff := cmp.Diff(map[string]string{"policies/a.yaml": "a2"}, contents); diff != "" {
		t.Errorf("without a module: want (-), got (+):\n%s", diff)
	}
	// With a module, files count that did not before, though the push did not change them.
	fifth := repo.Commit("A module again", map[string]string{"cue.mod/module.cue": "m"})
	repo.Push()
	delta, contents = mustDelta(t, s, fourth, fifth)
	if contents["lib/defs.cue"] != "d3" || delta.Base != "" {
		t.Errorf("from base %q: lib/defs.cue is %q, want d3", delta.Base, contents["lib/defs.cue"])
	}
	// If the policy folder is a module's root, nothing outside it counts.
	sixth := repo.Commit("A nearer module", map[string]string{"policies/cue.mod/module.cue": "m"})
	repo.Push()
	if _, contents = mustDelta(t, s, fifth, sixth); contents["lib/defs.cue"] != "" || contents["policies/cue.mod/module.cue"] != "m" {
		t.Errorf("with a nearer module got %q", contents)
	}
}

// A policy folder that comes back, after a removal or after a file in its place,
// comes with the CUE files around it, which do not count without it.
func TestCUEFilesAroundARestoredPolicyFolder(t *testing.T) {
	files := map[string]string{"cue.mod/module.cue": "m", "lib/defs.cue": "d", "policies/b.cue": "b"}
	for name, instead := range map[string]map[string]string{"removed": nil, "a file": {"policies": "f"}} {
		t.Run(name, func(t *testing.T) {
			repo, first := pushed(t, files)
			s := open(t, repo.Bare(), "policies")
			gone := repo.Remove("No policies", "policies")
			if instead != nil {
				gone = repo.Commit("A file in its place", instead)
			}
			repo.Push()
			delta, err := s.Delta(t.Context(), first, gone)
			if instead != nil {
				wantError(t, err, "PathNotAFolder", reconciler.WaitForPush)
				repo.Remove("No file either", "policies")
			} else if err != nil || delta.Base != "" || len(delta.Files) > 0 {
				t.Fatalf("without the folder: %+v (%v), want no files, from no base", delta, err)
			} else {
				_ = delta.Close()
			}
			restored := repo.Commit("Policies again", map[string]string{"policies/b.cue": "b"})
			repo.Push()
			delta, contents := mustDelta(t, s, gone, restored)
			if diff := cmp.Diff(files, contents); diff != "" || delta.Base != "" {
				t.Errorf("the base is %q; want (-), got (+):\n%s", delta.Base, diff)
			}
		})
	}
}

// A commit of few objects can have billions of files, or of folders without any.
// It is refused, and later commits are read.
func TestTooManyFiles(t *testing.T) {
	repo, first := pushed(t, policy(1))
	blob := repo.Server("rev-parse", first+":policies/a.yaml")
	for name, leaf := range map[string]string{"files": "100644 blob " + strings.TrimSpace(blob), "folders": ""} {
		t.Run(name, func(t *testing.T) {
			tree := func(entry string) string {
				var list strings.Builder
				for i := range 10 {
					if entry != "" {
						fmt.Fprintf(&list, "%s\t%d.yaml\n", entry, i)
					}
				}
				return strings.TrimSpace(gittest.Input(t, repo.Bare(), list.String(), "mktree"))
			}
			top := tree(leaf)
			for range 9 {
				top = tree("040000 tree " + top)
			}
			root := strings.TrimSpace(gittest.Input(t, repo.Bare(), "040000 tree "+top+"\tpolicies\n", "mktree"))
			bomb := strings.TrimSpace(gittest.Input(t, repo.Bare(), "bomb", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit-tree", root, "-p", first))
			s := open(t, repo.Bare(), "policies")
			for _, base := range []string{"", first} {
				_, err := s.Delta(t.Context(), base, bomb)
				wantError(t, err, "Unsupported", reconciler.WaitForPush)
			}
			mustDelta(t, s, "", first)
		})
	}
}
