package oci

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/boifi/hfi/internal/gobuild"
)

// Architectures are the architectures of the daemon's image, as in GOARCH.
var Architectures = []string{"amd64", "arm64"}

// Compile builds the daemon and the command line of a source tree for one
// architecture, as package gobuild does.
func Compile(ctx context.Context, source, architecture string, stamp gobuild.Stamp) (Programs, error) {
	folder, err := os.MkdirTemp("", "hfi-oci-")
	if err != nil {
		return Programs{}, fmt.Errorf("building for %s: %w", architecture, err)
	}
	defer os.RemoveAll(folder)
	to := gobuild.Target{OS: "linux", Arch: architecture}
	if err := gobuild.Programs(ctx, source, to, stamp, folder, "cmd/hfid", "cmd/hfi"); err != nil {
		return Programs{}, err
	}
	return ReadPrograms(folder, architecture)
}

// ReadPrograms reads the programs that were built for an architecture into a folder.
func ReadPrograms(folder, architecture string) (Programs, error) {
	built := Programs{Architecture: architecture}
	for name, content := range map[string]*[]byte{"hfid": &built.Hfid, "hfi": &built.Hfi} {
		var err error
		if *content, err = os.ReadFile(filepath.Join(folder, name)); err != nil {
			return Programs{}, fmt.Errorf("reading the programs for %s: %w", architecture, err)
		}
	}
	return built, nil
}
