// Package oci builds hfi's images without a container engine: the daemon's
// image, for several architectures, and the filter as an artefact that Istio's
// agent loads from an oci:// URL.
//
// Builds are reproducible: files have no times, and images have the Unix epoch
// as their creation time.
package oci

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Names of the images below a prefix in a registry, and of their files.
const (
	DaemonName = "hfi-control-plane"
	FilterName = "hfi-filter"
)

// made is the creation time in every image.
var made = v1.Time{Time: time.Unix(0, 0).UTC()}

// annotations describe an image with the "Pre-Defined Annotation Keys" of the
// OCI image specification.
func annotations(title, description, version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       title,
		"org.opencontainers.image.description": description,
		"org.opencontainers.image.version":     version,
	}
}
