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

// artefact gives the reference in a registry that a module's URL is. To Istio
// one without a scheme is of a registry too.
func artefact(url string) (reference string, found bool) {
	if strings.Contains(url, "://") {
		return strings.CutPrefix(url, "oci://")
	}
	return url, true
}

// lookInRegistry asks a registry for an artefact, as anybody may: hfid has no
// credentials. What only some may see it knows nothing of, and sidecars may.
func (k *keeper) lookInRegistry(ctx context.Context, reference, sha256 string) check {
	found, err := k.manifest(ctx, reference)
	if errors.Is(err, http.ErrSchemeMismatch) {
		found, err = k.manifest(ctx, reference, name.Insecure) // as Istio's agent does
	}
	var malformed *name.ErrBadName
	var refused *transport.Error
	switch {
	case errors.As(err, &malformed):
		return check{reason: reasonUnreachable, message: "the url cannot be read: " + reconciler.Cut(err.Error(), 200), certain: true}
	case errors.As(err, &refused):
		switch refused.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return check{}
		}
		return check{
			reason: reasonUnreachable, certain: refused.StatusCode == http.StatusNotFound,
			message: fmt.Sprintf("the registry answers %d %s", refused.StatusCode, http.StatusText(refused.StatusCode)),
		}
	case err != nil:
		return check{reason: reasonUnreachable, message: "the registry cannot be reached from the control plane: " + reconciler.Cut(reasonOf(err), 200)}
	case found.MediaType.IsIndex():
		return check{} // what counts is the digest of the image in it that is for the sidecar's platform
	case sha256 != "" && sha256 != found.Digest.Hex:
		return check{reason: reasonDigest, message: differs(sha256, found.Digest.Hex), certain: true}
	}
	return check{}
}

// manifest asks once: to ask again is CheckEvery's.
func (k *keeper) manifest(ctx context.Context, reference string, options ...name.Option) (*v1.Descriptor, error) {
	parsed, err := name.ParseReference(reference, options...)
	if err != nil {
		return nil, err
	}
	return remote.Head(parsed, remote.WithContext(ctx), remote.WithTransport(k.HTTP.Transport), remote.WithRetryBackoff(remote.Backoff{Steps: 1}))
}
