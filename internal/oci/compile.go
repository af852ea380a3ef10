package oci

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Architectures are those that the daemon's image is made for.
var Architectures = []string{"amd64", "arm64"}

// Compile builds the daemon and the command line of a source tree for one
// architecture. The bytes depend on the sources and the Go release, and on
// nothing else of this machine.
func Compile(ctx context.Context, source, architecture string) (Programs, error) {
	built := Programs{Architecture: architecture}
	folder, err := os.MkdirTemp("", "hfi-oci-")
	if err != nil {
		return built, fmt.Errorf("building for %s: %w", architecture, err)
	}
	defer os.RemoveAll(folder)
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=",
		"-o", folder, "./cmd/hfid", "./cmd/hfi")
	command.Dir = source
	// The levels of the instruction sets are Go's defaults, whatever this machine sets.
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+architecture, "CGO_ENABLED=0", "GOAMD64=v1", "GOARM64=v8.0", "GOEXPERIMENT=")
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := command.Run(); err != nil {
		return built, fmt.Errorf("building for %s: %w\n%s", architecture, err, said.String())
	}
	for name, content := range map[string]*[]byte{"hfid": &built.Hfid, "hfi": &built.Hfi} {
		if *content, err = os.ReadFile(filepath.Join(folder, name)); err != nil {
			return built, fmt.Errorf("building for %s: %w", architecture, err)
		}
	}
	return built, nil
}
