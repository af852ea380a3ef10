package envoy

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/envoytest"
)

// TestHugeValuesInTheSharedData runs beside the filter another module with the same vm_id, which
// writes larger values into the shared data than the filter reads. No VM gets a copy of
// them, and all have the next policies in force.
func TestHugeValuesInTheSharedData(t *testing.T) {
	module := filepath.Join(t.TempDir(), "hostile.wasm")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", module, "./hostilemodule")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the other module: %v: %s", err, output)
	}
	w := newWorld(t)
	w.start(t, map[string]envoytest.Config{"one": {
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: 2, Clusters: w.clusters(),
		Listeners: []envoytest.Listener{
			{Name: "hfi", Filters: []envoytest.Filter{filter(t, settings())}},
			{Name: "hostile", Filters: []envoytest.Filter{envoytest.Wasm{Name: "hostile", VM: "hfi", File: module}.Filter()}},
		},
	}})
	one, c := w.envoys["one"], client(t, false)
	set := func(kind string) {
		t.Helper()
		answer := ask(t, c, envoytest.Request{URL: one.ListenerURL("hostile"), Header: http.Header{
			"X-Key": {"hfi." + kind + `.1 daemon  10m0s "" ""`}, "X-Size": {strconv.Itoa(9 << 20)},
		}})
		if answer.Status != 200 {
			t.Fatalf("the other module answers with %d", answer.Status)
		}
	}
	w.push(t, outageSettled(1)...)

	set("program") // The VM that asks for all replaces it.
	w.push(t, outageSettled(2)...)

	set("group") // Each VM asks by itself.
	w.push(t, outageSettled(3)...)
	await(t, "each VM to ask by itself", func() bool {
		return strings.Count(one.Log(), "this VM fetches policies by itself: reading the shared data") == one.vms
	})
	w.push(t, outageSettled(4)...)
	if answer := get(t, c, one.URL()+"/ok"); answer.Status != 200 {
		t.Errorf("status %d", answer.Status)
	}
}
