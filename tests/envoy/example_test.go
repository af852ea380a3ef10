package envoy

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/child"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// The example in deploy/envoy works as it stands, but for its ports: the filter
// loads, follows the daemon, injects its workload's faults and no others, and is
// known to the daemon by the node's metadata.
func TestExampleConfiguration(t *testing.T) {
	t.Parallel()
	repo := gittest.New(t)
	commit := repo.Commit("Begin", map[string]string{
		"policies/ours.yaml":   "metadata: {name: ours}\nspec: {selector: {service: frontend, namespace: demo}, rules: [{match: {path: {exact: /broken}}, fault: {abort: {status: 418}}}]}\n",
		"policies/sent.yaml":   "metadata: {name: sent}\nspec: {selector: {service: frontend, namespace: demo}, direction: outbound, rules: [{match: {to: {service: backend}}, fault: {abort: {status: 419}}}]}\n",
		"policies/theirs.yaml": "metadata: {name: theirs}\nspec: {selector: {service: cart, namespace: demo}, rules: [{fault: {abort: {status: 410}}}]}\n",
	})
	repo.Push()
	daemon := hfidtest.Run(t, repo.Bare())
	daemon.WaitSynced(commit)
	upstream := envoytest.RunUpstream(t)

	example, err := os.ReadFile(filepath.Join(testtool.Root(), "deploy", "envoy", "envoy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	address, egress := testtool.FreeAddress(t), testtool.FreeAddress(t)
	for port, other := range map[string]string{
		"8080": strings.TrimPrefix(daemon.URL(), "http://"), "8000": upstream.Address, "8001": upstream.Address, "10000": address, "10001": egress, "9901": "127.0.0.1:0",
	} {
		_, number, err := net.SplitHostPort(other)
		if err != nil {
			t.Fatal(err)
		}
		example = replaceOnce(t, example, "port_value: "+port+"}", "port_value: "+number+"}")
	}

	// A clone in which "make build" has run.
	clone := t.TempDir()
	if err := os.Mkdir(filepath.Join(clone, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(hfidtest.Module(t), filepath.Join(clone, "bin", "filter.wasm")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(clone, "envoy.yaml"), example, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	envoy := exec.Command(testtool.Path(t, "envoy"), "-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart")
	envoy.Dir, envoy.Stderr = clone, &log
	child.EndWithParent(envoy, true)
	if err := envoy.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = envoy.Wait() // it is interrupted, or killed
	}()
	t.Cleanup(func() {
		_ = envoy.Process.Signal(os.Interrupt)
		select {
		case <-ended:
		case <-time.After(testtool.WaitLimit):
			_ = envoy.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("Envoy's log:\n%s", log.String())
		}
	})

	c := client(t, false)
	testtool.Eventually(t, "the workload's policy is in force", func() bool {
		answer, err := c.Get(t.Context(), "http://"+address+"/broken")
		return err == nil && answer.Status == 418
	})
	if answer := get(t, c, "http://"+address+"/ok"); answer.Status != 200 {
		t.Errorf("a request that no policy matches got %d", answer.Status)
	}
	if answer := get(t, c, "http://"+egress+"/ok"); answer.Status != 419 {
		t.Errorf("a request that the workload sends got %d", answer.Status)
	}
	status := daemon.WaitStatus("the filter is current", func(s *api.Status) bool { return s.Filters.Current == 1 && s.Filters.Connected == 1 })
	if got, want := status.Filters.Items[0].FilterID, (api.FilterID{Node: "frontend-1", Pod: "frontend-1", Service: "frontend", Namespace: "demo"}); got != want {
		t.Errorf("the daemon knows the filter as %+v, want %+v", got, want)
	}
}

// replaceOnce replaces a text that is there exactly once.
func replaceOnce(t *testing.T, text []byte, old, new string) []byte {
	t.Helper()
	if n := strings.Count(string(text), old); n != 1 {
		t.Fatalf("%q is there %d times", old, n)
	}
	return bytes.Replace(text, []byte(old), []byte(new), 1)
}
