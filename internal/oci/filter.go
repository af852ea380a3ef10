package oci

import (
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The media types of the "Wasm Artifact Image Specification" v0.0.0
// (solo-io/wasm), which Istio's agent follows: it accepts an image with exactly
// two layers, one of which is the uncompressed module.
const (
	configType  types.MediaType = "application/vnd.module.wasm.config.v1+json"
	contentType types.MediaType = "application/vnd.module.wasm.content.layer.v1+wasm"
)

// runtimeConfig is the content of the layer that describes the module. Istio does not read it.
type runtimeConfig struct {
	// Type is the module's runtime.
	Type        string   `json:"type"`
	ABIVersions []string `json:"abiVersions"`
	Config      struct {
		// RootIDs are the names of the module's plugins. The filter has one, with an empty name.
		RootIDs []string `json:"rootIds"`
	} `json:"config"`
}

// Filter builds the artefact of a Wasm module. It is a manifest and not an
// index, because a module has no platform.
func Filter(version string, module []byte) (v1.Image, error) {
	about := runtimeConfig{Type: "envoy_proxy", ABIVersions: []string{"0.2.0"}}
	about.Config.RootIDs = []string{""}
	described, err := json.Marshal(about)
	if err != nil {
		return nil, fmt.Errorf("describing the filter: %w", err)
	}
	image, err := mutate.Append(oci(),
		mutate.Addendum{Layer: static.NewLayer(described, configType), Annotations: titled("runtime-config.json")},
		mutate.Addendum{Layer: static.NewLayer(module, contentType), Annotations: titled("filter.wasm")})
	if err != nil {
		return nil, fmt.Errorf("building the filter's artefact: %w", err)
	}
	// Some registries refuse configurations of other types than an image's.
	image, err = configured(image, "wasip1", "wasm", v1.Config{})
	if err != nil {
		return nil, fmt.Errorf("building the filter's artefact: %w", err)
	}
	text := annotations(FilterName, "the Wasm filter that delays and aborts requests by hfi's fault policies", version)
	return mutate.Annotations(image, text).(v1.Image), nil
}

// titled sets the file name that tools such as oras use for a layer.
func titled(name string) map[string]string {
	return map[string]string{"org.opencontainers.image.title": name}
}
