// Package version says which build of hfi a program is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/mod/module"
)

// version and commit are set by the linker in releases and images: see package
// gobuild. Elsewhere they are empty, and Go's own build information answers.
var version, commit string

// Names of what is not known.
const (
	// Devel is the version of a build that was given none.
	Devel = "devel"
	// Unknown is the commit of a build from sources that name none.
	Unknown = "unknown"
)

// dirty ends the commit of a build whose work tree had changes.
const dirty = "-dirty"

// Info describes a build.
type Info struct {
	// Version is a release's tag such as v1.2.3, a pseudo-version as Go makes
	// them for commits without a tag, or Devel.
	Version string `json:"version"`
	// Commit is a git hash, whole or its first 12 digits, followed by "-dirty" if
	// there were changes on top of it; or Unknown.
	Commit string `json:"commit"`
	// Go is the Go release that compiled the program, such as go1.26.8.
	Go string `json:"go"`
	// Platform is GOOS/GOARCH, such as linux/amd64.
	Platform string `json:"platform"`
}

// Get describes this program.
func Get() Info {
	build, _ := debug.ReadBuildInfo()
	return describe(version, commit, build)
}

// describe takes version and commit from the linker's variables or, where those
// are empty, from Go's build information, which may be nil.
func describe(version, commit string, build *debug.BuildInfo) Info {
	info := Info{Version: version, Commit: commit, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if build == nil {
		build = &debug.BuildInfo{}
	}
	if info.Version == "" && build.Main.Version != "(devel)" {
		info.Version = build.Main.Version
	}
	if info.Commit == "" {
		info.Commit = commitOf(build)
	}
	if info.Version == "" {
		info.Version = Devel
	}
	if info.Commit == "" {
		info.Commit = Unknown
	}
	return info
}

// commitOf is the commit of a build from a work tree or, failing that, the one
// in a pseudo-version: "go install" builds from the module cache, without git.
func commitOf(build *debug.BuildInfo) string {
	settings := map[string]string{}
	for _, setting := range build.Settings {
		settings[setting.Key] = setting.Value
	}
	revision := settings["vcs.revision"]
	switch {
	case revision != "" && settings["vcs.modified"] == "true":
		return revision + dirty
	case revision != "":
		return revision
	case module.IsPseudoVersion(build.Main.Version):
		// A pseudo-version always has a revision.
		revision, _ = module.PseudoVersionRev(build.Main.Version)
	}
	return revision
}

// String is one line: v1.2.3 (commit 0123abcd…, go1.26.8, linux/amd64).
func (i Info) String() string {
	return fmt.Sprintf("%s (commit %s, %s, %s)", i.Version, i.Commit, i.Go, i.Platform)
}
