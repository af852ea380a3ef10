package oci

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Push pushes the daemon's image and the filter's artefact to PREFIX/NAME:TAG.
// It uses the credentials of "docker login" or "podman login", and returns the
// references by digest, the daemon's first.
func Push(ctx context.Context, prefix, tag string, daemon v1.ImageIndex, filter v1.Image) ([]string, error) {
	options := []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)}
	images := []struct {
		name   string
		digest func() (v1.Hash, error)
		write  func(name.Tag) error
	}{
		{DaemonName, daemon.Digest, func(to name.Tag) error { return remote.WriteIndex(to, daemon, options...) }},
		{FilterName, filter.Digest, func(to name.Tag) error { return remote.Write(to, filter, options...) }},
	}
	var pushed []string
	for _, image := range images {
		to, err := name.NewTag(strings.TrimSuffix(prefix, "/") + "/" + image.name + ":" + tag)
		if err != nil {
			return pushed, fmt.Errorf("naming the image to push: %w", err)
		}
		if err := image.write(to); err != nil {
			return pushed, fmt.Errorf("pushing %s: %w", to, err)
		}
		digest, err := image.digest()
		if err != nil {
			return pushed, fmt.Errorf("pushing %s: %w", to, err)
		}
		pushed = append(pushed, to.Context().Digest(digest.String()).String())
	}
	return pushed, nil
}
