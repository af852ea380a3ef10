package gobuild

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestParseTarget(t *testing.T) {
	if got, err := ParseTarget("windows/arm64"); err != nil || got != (Target{"windows", "arm64"}) || got.String() != "windows/arm64" || got.Program("hfi") != "hfi.exe" {
		t.Errorf("windows/arm64 is %v, %v", got, err)
	}
	for _, text := range []string{"", "linux", "linux/", "/amd64", "linux/amd64/v1", "linux/amd64\n", "../amd64"} {
		if got, err := ParseTarget(text); err == nil {
			t.Errorf("%q is taken for %v", text, got)
		}
	}
}

func TestStampLeavesOutWhatIsNotKnown(t *testing.T) {
	const base = "-s -w -buildid="
	for want, stamp := range map[string]Stamp{
		base: {},
		base + " -X github.com/boifi/hfi/internal/version.commit=abc":                                                               {Commit: "abc"},
		base + " -X github.com/boifi/hfi/internal/version.version=v1.2.3 -X github.com/boifi/hfi/internal/version.commit=abc-dirty": {Version: "v1.2.3", Commit: "abc-dirty"},
	} {
		if got := stamp.flags(); got != want {
			t.Errorf("the linker gets %q, want %q", got, want)
		}
	}
}

// The modules are those of the program and the platform, with go.sum's checksums.
func TestModules(t *testing.T) {
	testtool.NoteSources(t)
	sums, err := os.ReadFile(filepath.Join(testtool.Root(), "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	filter, err := Modules(t.Context(), testtool.Root(), Target{"wasip1", "wasm"}, "filter")
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := Modules(t.Context(), testtool.Root(), Target{"linux", "amd64"}, "cmd/hfid")
	if err != nil {
		t.Fatal(err)
	}
	const sdk, etcd = "github.com/proxy-wasm/proxy-wasm-go-sdk", "go.etcd.io/etcd/server/v3"
	for _, test := range []struct {
		name    string
		modules []Module
		with    string
		without string
	}{{"filter", filter, sdk, etcd}, {"daemon", daemon, etcd, sdk}} {
		var paths []string
		for _, module := range test.modules {
			paths = append(paths, module.Path)
			if line := module.Path + " " + module.Version + " " + module.Sum + "\n"; !strings.Contains(string(sums), line) {
				t.Errorf("%s: go.sum has no line %q", test.name, line)
			}
		}
		if !slices.Contains(paths, test.with) || slices.Contains(paths, test.without) || slices.Contains(paths, "github.com/boifi/hfi") || !slices.IsSorted(paths) {
			t.Errorf("%s is built from %q", test.name, paths)
		}
	}
	if _, err := Modules(t.Context(), testtool.Root(), Target{"linux", "amd64"}, "cmd/none"); err == nil || !strings.Contains(err.Error(), "cmd/none") {
		t.Errorf("of a program that there is not: %v", err)
	}
}

func TestCommitAndTime(t *testing.T) {
	t.Setenv(EpochVariable, "")
	repo := gittest.New(t)
	hash := repo.Commit("Begin", map[string]string{"a.go": "package a\n"})
	if got, err := Commit(t.Context(), repo.Work()); err != nil || got != hash {
		t.Errorf("the commit is %q, %v, want %q", got, err, hash)
	}
	want, err := time.Parse(time.RFC3339, repo.Git("log", "-1", "--format=%cI"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Time(t.Context(), repo.Work()); err != nil || !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("the time is %s, %v, want %s", got, err, want)
	}
	// A file that git does not know yet would be compiled too.
	repo.Write(map[string]string{"b.go": "package a\n"})
	if got, err := Commit(t.Context(), repo.Work()); err != nil || got != hash+"-dirty" {
		t.Errorf("with changes the commit is %q, %v, want %q", got, err, hash+"-dirty")
	}

	t.Setenv("GIT_CEILING_DIRECTORIES", os.TempDir())
	none := t.TempDir()
	if got, err := Commit(t.Context(), none); err != nil || got != "" {
		t.Errorf("without git the commit is %q, %v", got, err)
	}
	if got, err := Time(t.Context(), none); err == nil || !strings.Contains(err.Error(), "set "+EpochVariable) {
		t.Errorf("without git the time is %s, %v", got, err)
	}
	t.Setenv(EpochVariable, "1764075604")
	for _, folder := range []string{none, repo.Work()} {
		if got, err := Time(t.Context(), folder); err != nil || got.Unix() != 1764075604 {
			t.Errorf("with %s the time is %s, %v", EpochVariable, got, err)
		}
	}
	for _, text := range []string{"yesterday", "-1", "0", "99999999999"} {
		t.Setenv(EpochVariable, text)
		if got, err := Time(t.Context(), none); err == nil || !strings.Contains(err.Error(), EpochVariable) {
			t.Errorf("with %s=%s the time is %s, %v", EpochVariable, text, got, err)
		}
	}
}
