//go:build linux

package istio

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// quickstart is the guide for new users.
const quickstart = "deploy/quickstart.md"

// quickstartStory runs every command of the quickstart in order, and changes only
// the addresses that it asks the reader to fill in.
func quickstartStory(t *testing.T, w *world) {
	text, err := os.ReadFile(w.manifest(quickstart))
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		commands = append(commands, block[1])
	}
	// Start without a control plane and with an empty repository.
	w.kubectl(t, "-n", "demo", "delete", "wasmplugin", "--all")
	w.deleteNamespace(t, "boifi")
	repo := gittest.New(t)
	repo.Server("config", "http.receivepack", "true")
	address := serve(t, gittest.ServeHTTP(t, repo, gittest.HTTP{}).URL)
	images := httptest.NewUnstartedServer(registry.New())
	images.Listener.Close()
	if images.Listener, err = net.Listen("tcp", hostAddress+":0"); err != nil {
		t.Fatal(err)
	}
	images.Start()
	defer images.Close()
	prefix := images.Listener.Addr().String() + "/platform"
	for name, as := range map[string]string{controlPlaneImage: "/hfi-control-plane:dev", etcdImage: "/etcd:v3.7.3"} {
		if err := w.lab.CopyImage(name, prefix+as); err != nil {
			t.Fatal(err)
		}
	}
	script := regexp.MustCompile(`(?m)^export POLICIES=.*$`).ReplaceAllLiteralString(strings.Join(commands, "\n"), "export POLICIES="+address)
	script = regexp.MustCompile(`(?m)^export REGISTRY=.*$`).ReplaceAllLiteralString(script, "export REGISTRY="+prefix)
	w.follow(t, script)
	if commits := repo.Server("log", "--oneline", "main"); !strings.Contains(commits, "Revert") {
		t.Errorf("the repository's history is\n%s", commits)
	}
	w.installControlPlane(t)
}

// follow runs commands in a copy of this repository, each printed before it runs.
func (w *world) follow(t *testing.T, script string) {
	t.Helper()
	folder := makeFolder(t)
	copied := exec.Command("sh", "-c", `git ls-files -co --exclude-standard -z | tar --null --ignore-failed-read -T - -c | tar -x -C "$0"`, folder)
	copied.Dir = testtool.Root()
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("copying the repository: %v\n%s", err, out)
	}
	file := filepath.Join(folder, "quickstart.sh")
	if err := os.WriteFile(file, []byte("set -euo pipefail\nset -vm\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(w.ctx, "timeout", "480", "bash", file)
	command.Dir = folder
	command.Env = append(gittest.Environment(), "KUBECONFIG="+w.lab.Kubeconfig(), "PATH="+filepath.Join(testtool.Root(), ".tools", "bin")+":"+os.Getenv("PATH"))
	command.WaitDelay = 10 * time.Second
	out, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("following %s: %v", quickstart, err)
	}
	t.Logf("%s", out)
	slow := len(regexp.MustCompile(`(?m)^200 (0\.[5-9]|1\.)`).FindAllString(string(out), -1))
	fast := len(regexp.MustCompile(`(?m)^200 0\.[0-4]`).FindAllString(string(out), -1))
	if slow+fast != 40 || slow < 1 || slow > 19 {
		t.Errorf("of forty requests %d were slow and %d fast: half of the first twenty should have been slow", slow, fast)
	}
}

// serve makes a server on the loopback interface reachable for pods.
func serve(t *testing.T, loopback string) string {
	t.Helper()
	listener, err := net.Listen("tcp", hostAddress+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: forward(t, loopback), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		server.Close()
		<-done
	})
	return "http://" + listener.Addr().String() + "/policies.git"
}
