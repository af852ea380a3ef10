package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/boifi/hfi/internal/gobuild"
	"github.com/boifi/hfi/internal/oci"
)

// platforms are those of a release.
const platforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"

// release is what is released, and where to.
type release struct {
	// source is the repository's root folder, out the folder to write to.
	source, out string
	// filter is the file with the filter's module.
	filter string
	// helm is Helm's program.
	helm string
	// version is a tag such as v1.2.3.
	version string
	// commit is empty where it is not known.
	commit string
	// at is the time of all files.
	at      time.Time
	targets []gobuild.Target
}

// programs are those that a release has for each platform.
var programs = []string{"hfi", "hfid"}

// make makes the release in a temporary folder, and moves it to r.out when it is
// complete. It returns the names of the files.
func (r release) make(ctx context.Context) (names []string, err error) {
	if !semver.IsValid(r.version) || semver.Canonical(r.version) != r.version {
		return nil, fmt.Errorf("the version must be a tag such as v1.2.3 or v1.2.3-rc.1, not %q", r.version)
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return nil, fmt.Errorf("making a release: %w", err)
	}
	work, err := os.MkdirTemp(r.out, ".release-")
	if err != nil {
		return nil, fmt.Errorf("making a release: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	built, files := filepath.Join(work, "built"), filepath.Join(work, "files")
	for _, folder := range []string{built, files} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			return nil, fmt.Errorf("making a release: %w", err)
		}
	}
	var programs []program
	for _, target := range r.targets {
		some, err := r.build(ctx, built, files, target)
		if err != nil {
			return nil, err
		}
		programs = append(programs, some...)
	}
	filter, err := r.addFilter(ctx, files)
	if err != nil {
		return nil, err
	}
	if err := r.images(built, files); err != nil {
		return nil, err
	}
	if err := r.chart(ctx, work, files); err != nil {
		return nil, err
	}
	bom, err := bill(r.version, r.commit, r.at, append(programs, filter))
	if err != nil {
		return nil, err
	}
	if err := writeBill(filepath.Join(files, "hfi-"+r.version+".cdx.json"), bom); err != nil {
		return nil, err
	}
	if err := writeSums(files); err != nil {
		return nil, err
	}
	return publish(files, r.out)
}

// folderOf is where a platform's programs are built.
func folderOf(built string, target gobuild.Target) string {
	return filepath.Join(built, target.OS+"-"+target.Arch)
}

// build compiles a platform's programs and packs each into an archive.
func (r release) build(ctx context.Context, built, files string, target gobuild.Target) ([]program, error) {
	folder, names := folderOf(built, target), programs
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, fmt.Errorf("building for %s: %w", target, err)
	}
	var packages []string
	for _, name := range names {
		packages = append(packages, "cmd/"+name)
	}
	stamp := gobuild.Stamp{Version: r.version, Commit: r.commit}
	if err := gobuild.Programs(ctx, r.source, target, stamp, folder, packages...); err != nil {
		return nil, err
	}
	var programs []program
	for _, name := range names {
		file := filepath.Join(folder, target.Program(name))
		if err := r.pack(files, file, name, target); err != nil {
			return nil, err
		}
		each, err := r.describe(ctx, "cmd/"+name, target, file)
		if err != nil {
			return nil, err
		}
		programs = append(programs, each)
	}
	return programs, nil
}

// texts go into every archive, as far as the source tree has them.
var texts = []string{"CHANGELOG.md", "LICENSE", "README.md"}

// pack makes the archive of a program: with texts, and for the daemon with the
// filter, which it serves if it lies beside it.
func (r release) pack(files, file, name string, target gobuild.Target) error {
	entries := []entry{{name: filepath.Base(file), mode: 0o755, from: file}}
	for _, text := range texts {
		from := filepath.Join(r.source, text)
		if _, err := os.Stat(from); err == nil {
			entries = append(entries, entry{name: text, mode: 0o644, from: from})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("packing %s: %w", file, err)
		}
	}
	if name == "hfid" {
		entries = append(entries, entry{name: "filter.wasm", mode: 0o644, from: r.filter})
	}
	folder, suffix := strings.Join([]string{name, r.version, target.OS, target.Arch}, "-"), ".tar.gz"
	if target.OS == "windows" {
		suffix = ".zip"
	}
	return writeArchive(filepath.Join(files, folder+suffix), folder, r.at, entries)
}

// describe is a built program for the bill of materials.
func (r release) describe(ctx context.Context, source string, target gobuild.Target, file string) (program, error) {
	sum, err := sumOf(file)
	if err != nil {
		return program{}, err
	}
	modules, err := gobuild.Modules(ctx, r.source, target, source)
	if err != nil {
		return program{}, err
	}
	return program{name: source, target: target, sum: sum, modules: modules}, nil
}

// addFilter copies the filter's module.
func (r release) addFilter(ctx context.Context, files string) (program, error) {
	module, err := os.ReadFile(r.filter)
	if err != nil {
		return program{}, fmt.Errorf("reading the filter: %w", err)
	}
	file := filepath.Join(files, "filter.wasm")
	if err := os.WriteFile(file, module, 0o644); err != nil {
		return program{}, fmt.Errorf("copying the filter: %w", err)
	}
	return r.describe(ctx, "filter", gobuild.Target{OS: "wasip1", Arch: "wasm"}, file)
}

// images makes the daemon's image, of the same programs as the archives for
// Linux, and the filter's artefact. Without a platform of Linux there is no image.
func (r release) images(built, files string) error {
	module, err := os.ReadFile(r.filter)
	if err != nil {
		return fmt.Errorf("reading the filter: %w", err)
	}
	filter, err := oci.Filter(r.version, module)
	if err != nil {
		return err
	}
	if err := oci.WriteImage(filepath.Join(files, oci.FilterName+"-"+r.version+".tar"), r.version, filter); err != nil {
		return err
	}
	var each []oci.Programs
	for _, architecture := range oci.Architectures {
		target := gobuild.Target{OS: "linux", Arch: architecture}
		if !slices.Contains(r.targets, target) {
			continue
		}
		programs, err := oci.ReadPrograms(folderOf(built, target), architecture)
		if err != nil {
			return err
		}
		each = append(each, programs)
	}
	if each == nil {
		return nil
	}
	daemon, err := oci.Daemon(r.version, module, each)
	if err != nil {
		return err
	}
	return oci.WriteIndex(filepath.Join(files, oci.DaemonName+"-"+r.version+".tar"), r.version, daemon)
}

// publish moves a folder's files to another, the checksums last: where they
// are, the rest is.
func publish(files, out string) ([]string, error) {
	if err := os.Remove(filepath.Join(out, sumsName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("replacing an earlier release: %w", err)
	}
	entries, err := os.ReadDir(files)
	if err != nil {
		return nil, fmt.Errorf("making a release: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != sumsName {
			names = append(names, entry.Name())
		}
	}
	names = append(names, sumsName)
	for _, name := range names {
		if err := os.Rename(filepath.Join(files, name), filepath.Join(out, name)); err != nil {
			return nil, fmt.Errorf("making a release: %w", err)
		}
	}
	return names, nil
}
