package oci

import (
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// User is the user and group ID that the daemon's image runs as.
const User = 65532

// Folders and files in the daemon's image.
const (
	programs = "usr/local/bin/"
	dataDir  = "var/lib/hfid/"
	roots    = "etc/ssl/certs/ca-certificates.crt"
)

// Programs are the daemon and the command line for one architecture of Linux,
// linked statically.
type Programs struct {
	// Architecture is as in GOARCH.
	Architecture string
	Hfid, Hfi    []byte
}

// Daemon builds the daemon's image. For each architecture it has one layer with
// the programs, the filter's module beside them, and the certificate
// authorities for git over HTTPS. It has no shell and no git, because the
// daemon needs neither.
func Daemon(version string, module []byte, each []Programs) (v1.ImageIndex, error) {
	about := annotations(DaemonName, "hfid, which serves HTTP fault policies from a git repository to Wasm filters", version)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range each {
		image, err := daemonImage(p, module, about)
		if err != nil {
			return nil, fmt.Errorf("building the daemon's image for %s: %w", p.Architecture, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: p.Architecture}},
		})
	}
	return mutate.Annotations(index, about).(v1.ImageIndex), nil
}

func daemonImage(p Programs, module []byte, about map[string]string) (v1.Image, error) {
	certificates, err := certificates()
	if err != nil {
		return nil, err
	}
	content, err := layer([]file{
		{path: "etc/", mode: 0o755},
		// For programs that look up the user's name or home.
		{path: "etc/group", mode: 0o644, content: fmt.Appendf(nil, "root:x:0:\nhfid:x:%d:\n", User)},
		{path: "etc/passwd", mode: 0o644, content: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nhfid:x:%d:%d:hfid:/%s:/sbin/nologin\n", User, User, dataDir)},
		{path: "etc/ssl/", mode: 0o755},
		{path: "etc/ssl/certs/", mode: 0o755},
		{path: roots, mode: 0o644, content: certificates},
		// The working folder of the child processes that evaluate CUE. They write nothing there.
		{path: "tmp/", mode: 0o1777},
		{path: "usr/", mode: 0o755},
		{path: "usr/local/", mode: 0o755},
		{path: programs, mode: 0o755},
		{path: programs + "filter.wasm", mode: 0o644, content: module},
		{path: programs + "hfi", mode: 0o755, content: p.Hfi},
		{path: programs + "hfid", mode: 0o755, content: p.Hfid},
		{path: "var/", mode: 0o755},
		{path: "var/lib/", mode: 0o755},
		{path: dataDir, mode: 0o750, owner: User},
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(oci(), content)
	if err != nil {
		return nil, err
	}
	image, err = configured(image, "linux", p.Architecture, v1.Config{
		User: fmt.Sprintf("%d:%d", User, User),
		Env: []string{
			"PATH=/usr/local/bin",
			"HOME=/" + dataDir,
			"HFID_LISTEN=:8080",
			"HFID_DATA_DIR=/" + dataDir,
		},
		WorkingDir:   "/" + dataDir,
		Entrypoint:   []string{"/" + programs + "hfid"},
		ExposedPorts: map[string]struct{}{"8080/tcp": {}},
		Labels:       about,
	})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(image, about).(v1.Image), nil
}

// oci returns an image without layers whose manifest and configuration have OCI's media types.
func oci() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// configured returns the image with a configuration and without history.
func configured(image v1.Image, os, architecture string, config v1.Config) (v1.Image, error) {
	file, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.Created, file.OS, file.Architecture, file.Config, file.History = made, os, architecture, config, nil
	return mutate.ConfigFile(image, file)
}
