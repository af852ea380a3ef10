package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestWhereVersionAndCommitComeFrom(t *testing.T) {
	const hash = "0123456789abcdef0123456789abcdef01234567"
	build := func(version string, settings ...string) *debug.BuildInfo {
		info := &debug.BuildInfo{Main: debug.Module{Path: "github.com/boifi/hfi", Version: version}}
		for i := 0; i < len(settings); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: settings[i], Value: settings[i+1]})
		}
		return info
	}
	for name, test := range map[string]struct {
		version, commit         string
		build                   *debug.BuildInfo
		wantVersion, wantCommit string
	}{
		"no information":               {wantVersion: "devel", wantCommit: "unknown"},
		"go build without git":         {build: build("(devel)"), wantVersion: "devel", wantCommit: "unknown"},
		"go test":                      {build: build(""), wantVersion: "devel", wantCommit: "unknown"},
		"go install of a tag":          {build: build("v1.2.3"), wantVersion: "v1.2.3", wantCommit: "unknown"},
		"go install of a branch":       {build: build("v1.2.4-0.20261125130000-0123456789ab"), wantVersion: "v1.2.4-0.20261125130000-0123456789ab", wantCommit: "0123456789ab"},
		"go build in a clone":          {build: build("v1.2.3", "vcs.revision", hash, "vcs.modified", "false"), wantVersion: "v1.2.3", wantCommit: hash},
		"go build with changes":        {build: build("v1.2.3+dirty", "vcs.revision", hash, "vcs.modified", "true"), wantVersion: "v1.2.3+dirty", wantCommit: hash + "-dirty"},
		"release":                      {version: "v1.2.3", commit: hash, build: build("(devel)"), wantVersion: "v1.2.3", wantCommit: hash},
		"the linker wins":              {version: "v1.2.3", commit: "a", build: build("v9.9.9", "vcs.revision", hash), wantVersion: "v1.2.3", wantCommit: "a"},
		"the linker gives one of both": {version: "v1.2.3", build: build("v9.9.9", "vcs.revision", hash), wantVersion: "v1.2.3", wantCommit: hash},
	} {
		t.Run(name, func(t *testing.T) {
			got := describe(test.version, test.commit, test.build)
			want := Info{Version: test.wantVersion, Commit: test.wantCommit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestTheLine(t *testing.T) {
	info := Info{Version: "v1.2.3", Commit: "0123456789ab-dirty", Go: "go1.26.8", Platform: "linux/amd64"}
	if got, want := info.String(), "v1.2.3 (commit 0123456789ab-dirty, go1.26.8, linux/amd64)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
