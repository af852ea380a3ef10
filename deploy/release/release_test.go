package main

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"debug/pe"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// releaseLimit bounds one release: the first compiles everything.
const releaseLimit = 15 * time.Minute

// workingTree copies the project's files as they are now, the uncommitted too.
func workingTree(t *testing.T, to string) {
	t.Helper()
	for _, name := range sourceFiles(t) {
		content, err := os.ReadFile(filepath.Join(testtool.Root(), name))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(testtool.Root(), name))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
}

// sourceFiles are the project's files that git does not ignore.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	list := gittest.Run(t, testtool.Root(), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	var names []string
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "\x00"), "\x00") {
		// A link is a machine's own, and git lists files that were just deleted.
		if info, err := os.Lstat(filepath.Join(testtool.Root(), name)); err == nil && info.Mode().IsRegular() {
			names = append(names, name)
		}
	}
	return names
}

// environment is this process's, without what a make that runs these tests has
// set, and with some more.
func environment(more ...string) []string {
	var kept []string
	for _, setting := range gittest.Environment() {
		switch name, _, _ := strings.Cut(setting, "="); name {
		case "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "GOFLAGS", "VERSION", "PLATFORMS", "SOURCE_DATE_EPOCH":
		default:
			kept = append(kept, setting)
		}
	}
	return append(kept, more...)
}

// guide is the shell commands of docs/releasing.md, those of each block on
// their own, for this machine's architecture.
func guide(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testtool.Root(), "docs", "releasing.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, strings.ReplaceAll(block[1], "linux-amd64", "linux-"+runtime.GOARCH))
	}
	if len(blocks) != 2 {
		t.Fatalf("docs/releasing.md has %d blocks of commands, want those that make a release and those that verify it", len(blocks))
	}
	return blocks
}

// shell runs commands in a folder, and returns their output.
func shell(t *testing.T, folder, script string, environment []string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), releaseLimit)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", script)
	command.Dir, command.Env, command.WaitDelay = folder, environment, 10*time.Second
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, output)
	}
	return string(output)
}

// A maintainer and somebody who mistrusts them follow docs/releasing.md, each
// in a clone of their own and with other settings. Both get the same bytes, and
// those are what the guide says. Only this machine's platform and Windows are
// built: the others cost minutes each, and take the same way. The second takes
// compiled packages from Go's cache.
func TestReleasesAreReproducible(t *testing.T) {
	testtool.SlowOnly(t)
	testtool.NoteSources(t)
	blocks := guide(t)
	platforms := "PLATFORMS=linux/" + runtime.GOARCH + ",windows/amd64"
	first := filepath.Join(t.TempDir(), "hfi")
	workingTree(t, first)
	gittest.Run(t, first, "init", "-q")
	gittest.Run(t, first, "add", "-A")
	gittest.Run(t, first, "commit", "-q", "-m", "Release")
	hash := gittest.Run(t, first, "rev-parse", "HEAD")
	second := filepath.Join(t.TempDir(), "a", "deeper", "folder")
	gittest.Run(t, first, "clone", "-q", first, second)

	shell(t, first, blocks[0], environment(platforms, "TZ=UTC"))
	shell(t, second, "umask 077\n"+blocks[0], environment(platforms, "TZ=Asia/Tokyo", "GOAMD64=v2", "GOFLAGS=-tags=hfi_trap"))

	dist := filepath.Join(first, "dist")
	names := fileNames(t, dist)
	if there := fileNames(t, filepath.Join(second, "dist")); !slices.Equal(names, there) {
		t.Fatalf("one release has %q, the other %q", names, there)
	}
	linux := "-v1.2.3-linux-" + runtime.GOARCH
	want := []string{
		"SHA256SUMS", "filter.wasm", "hfi-1.2.3.tgz", "hfi-control-plane-v1.2.3.tar", "hfi-filter-v1.2.3.tar", "hfi" + linux + ".tar.gz",
		"hfi-v1.2.3-windows-amd64.zip", "hfi-v1.2.3.cdx.json", "hfid" + linux + ".tar.gz", "hfid-v1.2.3-windows-amd64.zip",
	}
	if !slices.Equal(names, want) {
		t.Errorf("the release has %q, want %q", names, want)
	}
	for _, name := range names {
		here, there := read(t, filepath.Join(dist, name)), read(t, filepath.Join(second, "dist", name))
		if !bytes.Equal(here, there) {
			t.Errorf("%s has %d bytes in one release, %d in the other, and they differ", name, len(here), len(there))
		}
	}

	says := fmt.Sprintf("v1.2.3 (commit %s, %s, linux/%s)", hash, runtime.Version(), runtime.GOARCH)
	output := shell(t, first, blocks[1], environment())
	if !strings.HasSuffix(output, "\nhfid "+says+"\n") {
		t.Errorf("following the guide ends with %q, want hfid %s", output, says)
	}
	for _, name := range names {
		if name != sumsName && !strings.Contains(output, name+": OK\n") {
			t.Errorf("sha256sum does not say that %s is as it was", name)
		}
	}
	command := unpack(t, filepath.Join(dist, "hfi"+linux+".tar.gz"))
	daemon := unpack(t, filepath.Join(dist, "hfid"+linux+".tar.gz"))
	windows := unpack(t, filepath.Join(dist, "hfi-v1.2.3-windows-amd64.zip"))
	hfi, hfid := command["hfi"+linux+"/hfi"], daemon["hfid"+linux+"/hfid"]
	if got := shell(t, first, save(t, "hfi", hfi)+" --version", environment()); got != "hfi "+says+"\n" {
		t.Errorf("hfi --version is %q, want hfi %s", got, says)
	}
	if filter := daemon["hfid"+linux+"/filter.wasm"]; !bytes.Equal(filter.content, read(t, filepath.Join(dist, "filter.wasm"))) {
		t.Errorf("the filter beside the daemon has %d bytes, and is not the release's", len(filter.content))
	}
	for _, text := range texts {
		content, err := os.ReadFile(filepath.Join(first, text))
		for program, archive := range map[string]map[string]unpacked{"hfi" + linux: command, "hfid" + linux: daemon, "hfi-v1.2.3-windows-amd64": windows} {
			if file, packed := archive[program+"/"+text]; packed != (err == nil) || !bytes.Equal(file.content, content) {
				t.Errorf("%s has %s: %t, with %d bytes; the source tree has %d, %v", program, text, packed, len(file.content), len(content), err)
			}
		}
	}
	daemonOfWindows := unpack(t, filepath.Join(dist, "hfid-v1.2.3-windows-amd64.zip"))
	stripped(t, hfi, hfid, windows["hfi-v1.2.3-windows-amd64/hfi.exe"])
	stripped(t, hfi, hfid, daemonOfWindows["hfid-v1.2.3-windows-amd64/hfid.exe"])
	committed, err := time.Parse(time.RFC3339, gittest.Run(t, first, "log", "-1", "--format=%cI"))
	if err != nil {
		t.Fatal(err)
	}
	for _, archive := range []map[string]unpacked{command, daemon, windows, daemonOfWindows} {
		for name, file := range archive {
			if !file.at.Equal(committed) {
				t.Errorf("%s has the time %s, the commit %s", name, file.at, committed)
			}
			if bytes.Contains(file.content, []byte(first)) || bytes.Contains(file.content, []byte(os.Getenv("HOME")+"/")) {
				t.Errorf("%s names a folder of the machine that built it", name)
			}
		}
	}
	if image := imageFile(t, filepath.Join(dist, "hfi-control-plane-v1.2.3.tar"), "usr/local/bin/hfid"); !bytes.Equal(image, hfid.content) {
		t.Errorf("the image's daemon has %d bytes, and is not that of the archive", len(image))
	}
	listed(t, read(t, filepath.Join(dist, "hfi-v1.2.3.cdx.json")), "cmd/hfid", hfid)
	listed(t, read(t, filepath.Join(dist, "hfi-v1.2.3.cdx.json")), "cmd/hfi", hfi)
}

func fileNames(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// save writes a program of an archive to a file, and returns its path.
func save(t *testing.T, name string, program unpacked) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, program.content, program.mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// stripped checks that programs hold neither symbols nor what a debugger reads.
func stripped(t *testing.T, hfi, hfid, windows unpacked) {
	t.Helper()
	for name, program := range map[string]unpacked{"hfi": hfi, "hfid": hfid} {
		file, err := elf.NewFile(bytes.NewReader(program.content))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, section := range file.Sections {
			if section.Type == elf.SHT_SYMTAB || strings.Contains(section.Name, "debug") {
				t.Errorf("%s has the section %s", name, section.Name)
			}
		}
	}
	file, err := pe.NewFile(bytes.NewReader(windows.content))
	if err != nil {
		t.Fatalf("the program for Windows: %v", err)
	}
	for _, section := range file.Sections {
		if strings.Contains(section.Name, "debug") {
			t.Errorf("the program for Windows has the section %s", section.Name)
		}
	}
	if len(file.Symbols) != 0 {
		t.Errorf("hfi.exe has %d symbols", len(file.Symbols))
	}
}

// imageFile returns a file of the image for this architecture in a layout.
func imageFile(t *testing.T, archive, name string) []byte {
	t.Helper()
	folder := t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "tar", "-xf", archive, "-C", folder).CombinedOutput(); err != nil {
		t.Fatalf("unpacking %s: %v\n%s", archive, err, output)
	}
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	platforms, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := platforms.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := platforms.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	files := mutate.Extract(image)
	defer files.Close()
	for archive := tar.NewReader(files); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("looking for %s in the image: %v", name, err)
		}
		if header.Name != name {
			continue
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
}

// listed checks that the bill of materials says of a program what Go's own
// build information in it does.
func listed(t *testing.T, text []byte, name string, program unpacked) {
	t.Helper()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(bytes.NewReader(text), cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	build, err := buildinfo.Read(bytes.NewReader(program.content))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"std": strings.TrimPrefix(build.GoVersion, "go")}
	for _, module := range build.Deps {
		want[module.Path] = module.Version
	}
	if version := want["go.etcd.io/etcd/server/v3"]; name == "cmd/hfid" && version == "" {
		t.Error("the daemon is built without etcd's server")
	}
	components := map[string]cdx.Component{}
	for _, component := range *bom.Components {
		components[component.BOMRef] = component
	}
	for _, dependency := range *bom.Dependencies {
		if !strings.HasSuffix(dependency.Ref, "goos=linux#"+name) {
			continue
		}
		got := map[string]string{}
		for _, reference := range *dependency.Dependencies {
			got[components[reference].Name] = components[reference].Version
		}
		if !maps.Equal(got, want) {
			t.Errorf("the bill says that %s consists of\n%v\nand its build information\n%v", name, got, want)
		}
		return
	}
	t.Errorf("the bill does not list %s for Linux", name)
}
