package git

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/reconciler"
)

// What the daemon may not read is reported as that, not as a missing or damaged
// repository, and not as a failure that passes.
func TestPermissionDenied(t *testing.T) {
	for _, c := range []struct {
		name   string
		packed bool
		// deny is what may not be read, relative to the repository.
		deny func(head string) string
	}{
		{"the folder", false, func(string) string { return "." }},
		{"the folder of refs", false, func(string) string { return "refs" }},
		{"the branch", false, func(string) string { return "refs/heads/main" }},
		{"the packed references", true, func(string) string { return "packed-refs" }},
		{"the configuration", false, func(string) string { return "config" }},
		{"the objects", false, func(string) string { return "objects" }},
		{"an object", false, func(head string) string { return "objects/" + head[:2] + "/" + head[2:] }},
		{"the packs", true, func(string) string { return "objects/pack" }},
		{"a pack", true, func(string) string { return "objects/pack/*.pack" }},
		{"an index", true, func(string) string { return "objects/pack/*.idx" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			repo, head := pushed(t, policy(1))
			if c.packed {
				repo.Server("gc", "-q")
			}
			for _, file := range glob(t, filepath.Join(repo.Bare(), c.deny(head))) {
				info, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(file, 0); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = os.Chmod(file, info.Mode()) }()
			}
			s := open(t, repo.Bare(), "policies")
			var err error
			testtool.AsNobody(t, repo.Bare(), func() {
				var folder string
				if folder, err = checkedFolder(s.address.local); err != nil {
					return
				}
				if _, err = s.localHead(folder); err != nil {
					return
				}
				o := &objects{gitFolder: folder, trees: &s.trees, limits: s.packLimits}
				defer o.retire()
				_, err = o.read(t.Context(), plumbing.CommitObject, plumbing.NewHash(head), maxObject)
			})
			if err == nil {
				t.Fatal("everything was read")
			}
			err = s.explain(t.Context(), "reading", err)
			wantError(t, err, "PermissionDenied", reconciler.Stalled)
		})
	}
}

// An index of git's first format is named.
func TestOldPackIndex(t *testing.T) {
	repo, head := pushed(t, policy(1))
	repo.Server("-c", "pack.indexVersion=1", "repack", "-adq")
	s := open(t, repo.Bare(), "policies")
	_, err := s.Delta(t.Context(), "", head)
	if err == nil {
		t.Fatal("the commit was read")
	}
	wantError(t, err, "Unsupported", reconciler.Stalled)
	if !strings.Contains(err.Error(), "pack index of version 1") {
		t.Errorf("the error does not name the index: %v", err)
	}
	repo.Server("repack", "-adfq")
	for _, index := range glob(t, filepath.Join(repo.Bare(), "objects/pack/*.idx")) {
		if err := os.Remove(index); err != nil {
			t.Fatal(err)
		}
		repo.Server("index-pack", strings.TrimSuffix(index, ".idx")+".pack")
	}
	mustDelta(t, s, "", head)
}

// A partial clone that lacks an object is not damaged, and nothing brings the
// object by itself.
func TestPartialClone(t *testing.T) {
	repo, head := pushed(t, policy(1))
	repo.Server("config", "uploadpack.allowFilter", "true")
	clone := filepath.Join(t.TempDir(), "clone")
	gittest.Run(t, "/", "clone", "-q", "--bare", "--filter=blob:none", "file://"+repo.Bare(), clone)
	s := open(t, clone, "policies")
	_, err := readAll(t, s, "", head)
	if err == nil {
		t.Fatal("the commit was read")
	}
	wantError(t, err, "PartialClone", reconciler.Stalled)
	gittest.Run(t, clone, "cat-file", "-p", head+":policies/a.yaml") // git fetches what it lacks.
	mustDelta(t, s, "", head)
}
