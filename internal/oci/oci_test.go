package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/boifi/hfi/internal/hfidtest"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// limit bounds requests to a registry in this process.
const limit = time.Minute

// module starts like a Wasm module.
var module = []byte("\x00asm\x01\x00\x00\x00 a module")

// bothMade builds both images with placeholder programs.
func bothMade(t *testing.T) (v1.ImageIndex, v1.Image) {
	t.Helper()
	daemon, err := Daemon("1.2.3", module, []Programs{
		{Architecture: "amd64", Hfid: []byte("hfid for amd64"), Hfi: []byte("hfi for amd64")},
		{Architecture: "arm64", Hfid: []byte("hfid for arm64"), Hfi: []byte("hfi for arm64")},
	})
	if err != nil {
		t.Fatal(err)
	}
	filter, err := Filter("1.2.3", module)
	if err != nil {
		t.Fatal(err)
	}
	return daemon, filter
}

// pushed pushes both images to a registry in this process, and returns its host
// and the references.
func pushed(t *testing.T, daemon v1.ImageIndex, filter v1.Image) []string {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	// Do not use the credentials of the user who runs the test.
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", filepath.Join(t.TempDir(), "none.json"))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	references, err := Push(ctx, strings.TrimPrefix(server.URL, "http://")+"/platform", "1.2.3", daemon, filter)
	if err != nil {
		t.Fatal(err)
	}
	if len(references) != 2 {
		t.Fatalf("pushed %v", references)
	}
	return references
}

func reference(t *testing.T, text string) name.Reference {
	t.Helper()
	parsed, err := name.ParseReference(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// tagged returns the reference by tag for a reference by digest.
func tagged(digest string) string {
	repository, _, _ := strings.Cut(digest, "@")
	return repository + ":1.2.3"
}

// The image pulled from a registry, by tag and by digest, has two layers,
// in the format of Istio's agent: the unchanged module, and its metadata.
func TestTheImageRoundTripsThroughARegistryInIstiosFormat(t *testing.T) {
	daemon, filter := bothMade(t)
	byDigest := pushed(t, daemon, filter)[1]
	if !strings.Contains(byDigest, "/platform/hfi-filter@sha256:") {
		t.Errorf("the filter was pushed as %s", byDigest)
	}
	for _, text := range []string{byDigest, tagged(byDigest)} {
		descriptor, err := remote.Get(reference(t, text))
		if err != nil {
			t.Fatal(err)
		}
		if descriptor.MediaType != types.OCIManifestSchema1 {
			t.Errorf("%s is a %s: the agent cannot choose from an index", text, descriptor.MediaType)
		}
		image, err := descriptor.Image()
		if err != nil {
			t.Fatal(err)
		}
		// Not validate.Image, which decompresses layers: these are not compressed.
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		found := map[types.MediaType][]byte{}
		for _, layer := range layers {
			kind, err := layer.MediaType()
			if err != nil {
				t.Fatal(err)
			}
			found[kind] = readAll(t, layer.Compressed)
		}
		if len(layers) != 2 || !bytes.Equal(found["application/vnd.module.wasm.content.layer.v1+wasm"], module) {
			t.Errorf("%s has the layers %q", text, found)
		}
		if config := found["application/vnd.module.wasm.config.v1+json"]; !bytes.Contains(config, []byte(`"envoy_proxy"`)) {
			t.Errorf("the configuration is %s", config)
		}
	}
}

// The daemon's image comes back for each architecture, whole and as it was.
func TestTheDaemonComesBackFromARegistry(t *testing.T) {
	daemon, filter := bothMade(t)
	byDigest := pushed(t, daemon, filter)[0]
	index, err := remote.Index(reference(t, tagged(byDigest)))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(byDigest, "/platform/hfi-control-plane@"+digest.String()) {
		t.Errorf("pushed %s and pulled %s", byDigest, digest)
	}
	for _, architecture := range Architectures {
		image, err := remote.Image(reference(t, byDigest), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Architecture != architecture || config.Config.User != "65532:65532" || !slices.Equal(config.Config.Entrypoint, []string{"/usr/local/bin/hfid"}) {
			t.Errorf("the configuration of the image for %s is %+v", architecture, config)
		}
		files := unpacked(t, image)
		for path, want := range map[string]string{"hfid": "hfid for " + architecture, "hfi": "hfi for " + architecture, "filter.wasm": string(module)} {
			if got := string(files["usr/local/bin/"+path].content); got != want {
				t.Errorf("%s for %s is %q", path, architecture, got)
			}
		}
		if data := files["var/lib/hfid/"]; data.header == nil || data.header.Uid != User {
			t.Errorf("the daemon does not own the data folder: %+v", data.header)
		}
	}
}

// The image has the certificate authorities that browsers trust.
func TestTheCertificateAuthoritiesAreThere(t *testing.T) {
	text, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatal("no certificate can be parsed")
	}
	if blocks := bytes.Count(text, []byte("BEGIN CERTIFICATE")); blocks < 50 {
		t.Errorf("%d certificate authorities are fewer than browsers trust", blocks)
	}
}

// The same inputs give the same files at any time and place.
func TestTheSameInputsMakeTheSameBytes(t *testing.T) {
	var written [2][2][]byte
	for i := range written {
		daemon, filter := bothMade(t)
		folder := t.TempDir()
		paths := []string{filepath.Join(folder, "daemon.tar"), filepath.Join(folder, "filter.tar")}
		if err := errors.Join(WriteIndex(paths[0], "1.2.3", daemon), WriteImage(paths[1], "1.2.3", filter)); err != nil {
			t.Fatal(err)
		}
		for j, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			written[i][j] = content
		}
		if left, err := os.ReadDir(folder); err != nil || len(left) != 2 {
			t.Errorf("%v is left beside the files (%v)", left, err)
		}
		// If a file contained the current time, it would differ the second time.
		time.Sleep(1100 * time.Millisecond)
	}
	for j, what := range []string{"the daemon's image", "the filter's artefact"} {
		if !bytes.Equal(written[0][j], written[1][j]) {
			t.Errorf("two builds of %s differ", what)
		}
	}
	files := contents(t, bytes.NewReader(written[0][1]))
	if index := files["index.json"].content; !bytes.Contains(index, []byte(`"org.opencontainers.image.ref.name":"1.2.3"`)) && !bytes.Contains(index, []byte(`"org.opencontainers.image.ref.name": "1.2.3"`)) {
		t.Errorf("the layout has no tag: %s", index)
	}
	if string(files["oci-layout"].content) == "" {
		t.Error("the layout lacks the file oci-layout")
	}
}

// packed is a file in an archive.
type packed struct {
	header  *tar.Header
	content []byte
}

func unpacked(t *testing.T, image v1.Image) map[string]packed {
	t.Helper()
	stream := mutate.Extract(image)
	defer stream.Close()
	return contents(t, stream)
}

func contents(t *testing.T, stream io.Reader) map[string]packed {
	t.Helper()
	files := map[string]packed{}
	for archive := tar.NewReader(stream); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		name := header.Name
		if header.Typeflag == tar.TypeDir {
			name = strings.TrimSuffix(name, "/") + "/"
		}
		files[name] = packed{header, content}
	}
}

func readAll(t *testing.T, open func() (io.ReadCloser, error)) []byte {
	t.Helper()
	stream, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return content
}
