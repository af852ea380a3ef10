// Package gobuild compiles hfi's programs for releases and images. The bytes
// depend on the sources, the version, the commit and the Go release, and on
// nothing else of the machine or the folder. It runs the go command.
package gobuild

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Target is a platform to compile for.
type Target struct {
	// OS and Arch are as GOOS and GOARCH have them.
	OS, Arch string
}

var target = regexp.MustCompile(`^([a-z0-9]+)/([a-z0-9]+)$`)

// ParseTarget reads GOOS/GOARCH. Whether Go knows the platform is left to Go.
func ParseTarget(text string) (Target, error) {
	parts := target.FindStringSubmatch(text)
	if parts == nil {
		return Target{}, fmt.Errorf("%q is not a platform such as linux/amd64", text)
	}
	return Target{OS: parts[1], Arch: parts[2]}, nil
}

// String is GOOS/GOARCH.
func (t Target) String() string { return t.OS + "/" + t.Arch }

// Program is the file name of a program on the platform.
func (t Target) Program(name string) string {
	if t.OS == "windows" {
		return name + ".exe"
	}
	return name
}

// Stamp is what the programs say of themselves: see package version. Where a
// field is empty they say that they do not know.
type Stamp struct {
	Version, Commit string
}

// versionPackage holds the variables that the linker sets.
const versionPackage = "github.com/boifi/hfi/internal/version"

// flags are the linker's: no symbols and no build ID, which would differ with the folder.
func (s Stamp) flags() string {
	flags := "-s -w -buildid="
	if s.Version != "" {
		flags += " -X " + versionPackage + ".version=" + s.Version
	}
	if s.Commit != "" {
		flags += " -X " + versionPackage + ".commit=" + s.Commit
	}
	return flags
}

// Programs compiles main packages, named by their paths in the source tree such
// as cmd/hfid, into a folder. The programs have no symbol table and need no C library.
func Programs(ctx context.Context, source string, to Target, stamp Stamp, folder string, packages ...string) error {
	arguments := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=" + stamp.flags(), "-o", folder + string(filepath.Separator)}
	if _, err := run(ctx, source, to, append(arguments, relative(packages)...)...); err != nil {
		return fmt.Errorf("building for %s: %w", to, err)
	}
	return nil
}

// Module is a module that a program is built from.
type Module struct {
	Path, Version string
	// Sum is the checksum of its content as go.sum has it.
	Sum string
}

// Modules are the modules of others that a main package is compiled from, by path.
func Modules(ctx context.Context, source string, to Target, main string) ([]Module, error) {
	output, err := run(ctx, source, to, append([]string{"list", "-deps", "-json=Module"}, relative([]string{main})...)...)
	if err != nil {
		return nil, fmt.Errorf("listing the modules of %s for %s: %w", main, to, err)
	}
	var modules []Module
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var listed struct {
			// Module is nil for the standard library.
			Module *struct {
				Module
				Main    bool
				Replace *Module
			}
		}
		switch err := decoder.Decode(&listed); {
		case errors.Is(err, io.EOF):
			slices.SortFunc(modules, func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
			return slices.Compact(modules), nil
		case err != nil:
			return nil, fmt.Errorf("listing the modules of %s for %s: %w", main, to, err)
		case listed.Module == nil || listed.Module.Main:
		case listed.Module.Replace != nil:
			return nil, fmt.Errorf("listing the modules of %s: %s is replaced, which \"go install\" rejects", main, listed.Module.Path)
		default:
			modules = append(modules, listed.Module.Module)
		}
	}
}

// relative makes packages relative to the source tree, as the go command wants them.
func relative(packages []string) []string {
	paths := make([]string, len(packages))
	for i, each := range packages {
		paths[i] = "./" + path.Clean(each)
	}
	return paths
}

// settings are those of the environment that change what is built: nothing that
// this machine sets counts. The levels of the instruction sets are Go's defaults.
var settings = []string{"CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=", "GOFIPS140=off", "GOFLAGS=-mod=readonly", "GOWORK=off"}

// run runs the go command for a platform, and gives what it printed.
func run(ctx context.Context, source string, to Target, arguments ...string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", arguments...)
	command.Dir = source
	command.Env = slices.Concat(os.Environ(), settings, []string{"GOOS=" + to.OS, "GOARCH=" + to.Arch})
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(command.Args, " "), err, stderr.String())
	}
	return stdout.Bytes(), nil
}
