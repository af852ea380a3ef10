package oci

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/gobuild"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
	"github.com/boifi/hfi/schema/scaffold"
)

// compiled returns the image's programs for this machine.
func compiled(t *testing.T, source string) Programs {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	programs, err := Compile(ctx, source, runtime.GOARCH, gobuild.Stamp{})
	if err != nil {
		t.Fatal(err)
	}
	return programs
}

// The daemon of the image runs with nothing but what is in the image,
// as the image's user, under a root that is read only but for its data. It
// evaluates a package of CUE, for which it starts itself, and serves the
// filter that lies beside it.
func TestTheImageRuns(t *testing.T) {
	testtool.SlowOnly(t)
	if os.Geteuid() != 0 {
		testtool.Lacks(t, "only root may mount, and make a folder the root of a process")
	}
	real, err := os.ReadFile(hfidtest.Module(t))
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := Daemon("1.2.3", real, []Programs{compiled(t, testtool.Root())})
	if err != nil {
		t.Fatal(err)
	}
	filter, err := Filter("1.2.3", real)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(reference(t, pushed(t, daemon, filter)[0]), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	extract(t, image, root)
	repo := gittest.New(t)
	repo.Commit("a package of CUE", policies(t))
	repo.Push()
	copyTree(t, repo.Bare(), filepath.Join(root, "srv/policies.git"))

	address := start(t, image, root, "HFID_REPO=/srv/policies.git", "HFID_LISTEN=127.0.0.1:0")
	if status, _ := get(t, address+"/health"); status != http.StatusOK {
		t.Errorf("GET /health: %d", status)
	}
	var body []byte
	testtool.Within(t, testtool.WaitLimit, "the package's policy is served", func() error {
		if _, body = get(t, address+"/v1/policies"); bytes.Contains(body, []byte("payment-outage")) {
			return nil
		}
		_, status := get(t, address+"/v1/status")
		return fmt.Errorf("%s\n%s", body, status)
	})
	if status, got := get(t, address+"/v1/filter.wasm"); status != http.StatusOK || sha256.Sum256(got) != sha256.Sum256(real) {
		t.Errorf("GET /v1/filter.wasm: %d, %d bytes", status, len(got))
	}
}

// policies creates a policy repository with a CUE package.
func policies(t *testing.T) map[string]string {
	t.Helper()
	files, err := scaffold.Files()
	if err != nil {
		t.Fatal(err)
	}
	repository := map[string]string{}
	for name, content := range files {
		repository[name] = string(content)
	}
	return repository
}

// extract unpacks an image.
func extract(t *testing.T, image v1.Image, root string) {
	t.Helper()
	files := unpacked(t, image)
	for _, name := range sortedNames(files) {
		path, header := filepath.Join(root, name), files[name].header
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, header.FileInfo().Mode()); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, path, files[name].content, header.FileInfo().Mode())
		}
		if err := os.Chown(path, header.Uid, header.Gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
}

func sortedNames(files map[string]packed) []string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func write(t *testing.T, path string, content []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

// copyTree copies a folder for a user with read permission only.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

var listening = regexp.MustCompile(`msg=listening .*?address=(http://\S+)`)

// contain does in a mount namespace what a container engine does: it mounts
// /proc and an empty volume for the data, makes the root read-only, and switches
// to the image's user.
const contain = `set -e
root=$1; data=$2; user=$3; shift 3
path=$PATH; PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$root/proc"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0777 tmpfs "$root$data"
mount -o remount,bind,ro "$root"
exec env PATH="$path" "$(command -v chroot)" --userspec="$user" "$root" "$@"`

// start runs the image's entry point in its root, with its environment and
// additional variables, until the end of the test. It returns the URL that the
// daemon listens on.
func start(t *testing.T, image v1.Image, root string, environment ...string) string {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("/bin/sh", "-c", contain, "contain", root, "/"+dataDir, config.Config.User)
	command.Args = append(command.Args, config.Config.Entrypoint...)
	command.Env = slices.Concat(config.Config.Env, environment)
	command.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("starting %s in the image: %v", command.Path, err)
	}
	var said bytes.Buffer
	address, ended := make(chan string, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			said.WriteString(lines.Text() + "\n")
			if match := listening.FindStringSubmatch(lines.Text()); match != nil {
				address <- match[1]
			}
		}
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill()
		<-ended
		_ = command.Wait()
		if t.Failed() {
			t.Logf("the daemon's log:\n%s", said.String())
		}
	})
	select {
	case url := <-address:
		return url
	case <-ended:
		t.Fatal("the daemon exited before it listened")
	case <-time.After(hfidtest.WaitLimit):
		t.Fatal("the daemon does not listen")
	}
	return ""
}

func get(t *testing.T, url string) (int, []byte) {
	t.Helper()
	client := http.Client{Timeout: hfidtest.WaitLimit}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, body
}
