//go:build linux

package istio

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/boifi/hfi/internal/gobuild"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/oci"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/tests/istio/lab"
)

// controlPlaneImage is the name that deploy/kubernetes gives the daemon's image.
const controlPlaneImage = "hfi-control-plane:dev"

// etcdImage is what deploy/kubernetes/overlays/etcd runs.
const etcdImage = "your-registry.example/etcd:v3.7.3"

// buildImages builds the image of the daemon, as "make oci" does, and that of the
// workload. The first result is a folder with the command line.
func (w *world) buildImages(t *testing.T) (programs string, images map[string]lab.Image) {
	t.Helper()
	module := filepath.Join(t.TempDir(), "filter.wasm")
	if err := hfidtest.CompileModule(module); err != nil {
		t.Fatal(err)
	}
	filter, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	built, err := oci.Compile(w.ctx, testtool.Root(), runtime.GOARCH, gobuild.Stamp{Version: "dev"})
	if err != nil {
		t.Fatal(err)
	}
	index, err := oci.Daemon("dev", filter, []oci.Programs{built})
	if err != nil {
		t.Fatal(err)
	}
	w.module, w.images = filter, index
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root := makeFolder(t)
	files := mutate.Extract(image)
	defer files.Close()
	if err := lab.Unpack(files, root); err != nil {
		t.Fatal(err)
	}
	app := makeFolder(t)
	build := exec.Command("go", "build", "-o", filepath.Join(app, "app"), "./tests/istio/app")
	build.Dir = testtool.Root()
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the workload: %v\n%s", err, out)
	}
	etcd := makeFolder(t)
	if err := os.MkdirAll(filepath.Join(etcd, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(testtool.Path(t, "etcd"), filepath.Join(etcd, "bin", "etcd")); err != nil {
		copyFile(t, testtool.Path(t, "etcd"), filepath.Join(etcd, "bin", "etcd"))
	}
	return filepath.Join(root, "usr", "local", "bin"), map[string]lab.Image{
		controlPlaneImage: {Root: root, Entrypoint: config.Config.Entrypoint, Env: config.Config.Env, Dir: config.Config.WorkingDir, UID: oci.User, GID: oci.User},
		etcdImage:         {Root: etcd, Env: []string{"PATH=/bin"}, Dir: "/", Host: libraries()},
		"app":             {Root: app, Entrypoint: []string{"/app"}, Dir: "/", UID: oci.User, GID: oci.User},
	}
}

// makeFolder creates a temporary folder that every user may enter.
func makeFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "hfi-istio-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	if err := os.Chmod(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	return folder
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

// libraries are the folders with this machine's C library, which dynamically linked
// programs need.
func libraries() []string {
	var found []string
	for _, folder := range []string{"/lib", "/lib64", "/usr/lib"} {
		if _, err := os.Stat(folder); err == nil {
			found = append(found, folder)
		}
	}
	return found
}
