//go:build linux

package istio

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/testtool"
)

// script runs a script of the repository with only what its users have: kubectl and
// hfi in the path, a kubeconfig, and a repository to push to.
func (w *world) script(t *testing.T, limit time.Duration, name string, arguments ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, limit)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(testtool.Root(), name), arguments...)
	command.Env = append(gittest.Environment(), "KUBECONFIG="+w.lab.Kubeconfig(), "HFI_REPO="+w.repo.Bare(), fmt.Sprintf("LOAD=%.0f", loadLimit().Seconds()),
		"PATH="+w.programs+":"+filepath.Join(testtool.Root(), ".tools", "bin")+":"+os.Getenv("PATH"))
	command.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	if err := command.Run(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out.String())
	}
	return out.String()
}

// The stories as scripts, which run on any cluster that kubectl reaches. They run
// twice, because they must clean up after themselves.
func scriptsStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	for _, run := range []string{"first", "second"} {
		t.Run(run, func(t *testing.T) { t.Log(w.script(t, 8*time.Minute, "tests/run-all-tests.sh")) })
	}
}

// Helper scripts show a sidecar's logs, its filter's logs and its filter's metrics.
func helpersStory(t *testing.T, w *world) {
	w.pushAndWait(t)
	w.loadPlugin(t)
	pod := w.frontends(t)[0].name
	for script, part := range map[string]string{
		"scripts/view-logs.sh":      "Envoy proxy is ready",
		"scripts/view-wasm-logs.sh": "started for service=\"frontend\"",
		"scripts/wasm-stats.sh":     "hfi_policies_loaded",
	} {
		if out := w.script(t, time.Minute, script, pod, "demo"); !strings.Contains(out, part) {
			t.Errorf("%s does not show %q:\n%s", script, part, out)
		}
	}
}
