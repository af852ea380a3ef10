package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/boifi/hfi/reconciler"
)

// imageReference returns the image reference in a module's URL, and false if
// it has none. Istio takes a URL without a scheme for an image reference too.
func imageReference(url string) (reference string, found bool) {
	if strings.Contains(url, "://") {
		return strings.CutPrefix(url, "oci://")
	}
	return url, true
}

// resolve asks a registry for an image's digest, without credentials: hfid has
// none. A refusal says nothing, because sidecars may have credentials.
func (k *keeper) resolve(ctx context.Context, reference, sha256 string) moduleCheck {
	found, err := k.headManifest(ctx, reference)
	if errors.Is(err, http.ErrSchemeMismatch) {
		found, err = k.headManifest(ctx, reference, name.Insecure) // as Istio's agent does
	}
	var malformed *name.ErrBadName
	var refused *transport.Error
	switch {
	case errors.As(err, &malformed):
		return moduleCheck{reason: reasonUnreachable, message: "the url is invalid: " + reconciler.Cut(err.Error(), 200), conclusive: true}
	case errors.As(err, &refused):
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return moduleCheck{}
		}
		return moduleCheck{
			reason: reasonUnreachable, conclusive: refused.StatusCode == http.StatusNotFound,
			message: fmt.Sprintf("the registry returned %d %s", refused.StatusCode, http.StatusText(refused.StatusCode)),
		}
	case err != nil:
		return moduleCheck{reason: reasonUnreachable, message: "the registry cannot be reached from the control plane: " + reconciler.Cut(reasonOf(err), 200)}
	case found.MediaType.IsIndex():
		return moduleCheck{} // Istio compares the digest of the image for the sidecar's platform.
	case sha256 != "" && sha256 != found.Digest.Hex:
		return moduleCheck{reason: reasonDigest, message: digestMismatch(sha256, found.Digest.Hex), conclusive: true}
	}
	return moduleCheck{}
}

// headManifest sends one request: CheckEvery is the time until the next.
func (k *keeper) headManifest(ctx context.Context, reference string, options ...name.Option) (*v1.Descriptor, error) {
	parsed, err := name.ParseReference(reference, options...)
	if err != nil {
		return nil, err
	}
	return remote.Head(parsed, remote.WithContext(ctx), remote.WithTransport(k.HTTP.Transport), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
}
