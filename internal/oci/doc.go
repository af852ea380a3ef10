// Package oci makes what a registry holds of hfi, without a container engine:
// the daemon's image, for several architectures, and the filter as an artefact
// that Istio's agent loads by oci://.
//
// The same inputs give the same bytes: files have no times, and the images say
// that they were made when Unix time began.
package oci

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Names under which images are pushed below a prefix, and written to files.
const (
	DaemonName = "hfi-control-plane"
	FilterName = "hfi-filter"
)

// made is when every image says that it was made.
var made = v1.Time{Time: time.Unix(0, 0).UTC()}

// annotations describe an image to people, in the keys of the OCI image
// specification ("Pre-Defined Annotation Keys").
func annotations(title, description, version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       title,
		"org.opencontainers.image.description": description,
		"org.opencontainers.image.version":     version,
	}
}
