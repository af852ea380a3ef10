package envoy

import (
	"bytes"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/hfidtest"
)

// Stock Envoy loads the filter from a file, and by HTTP from the daemon under the
// name of its digest. Both ways it faults requests.
func TestEnvoyLoadsTheFilterFromAFileAndFromTheDaemon(t *testing.T) {
	w := mesh(t)
	module, err := os.ReadFile(hfidtest.Module(t))
	if err != nil {
		t.Fatal(err)
	}
	if served := w.daemon.Get("/v1/filter.wasm"); served.Status != http.StatusOK || !bytes.Equal(served.Body, module) {
		t.Errorf("GET /v1/filter.wasm: %d with %d bytes, and the module has %d", served.Status, len(served.Body), len(module))
	}
	if answer := w.daemon.Get("/v1/filter/" + strings.Repeat("0", 64) + ".wasm"); answer.Status != http.StatusNotFound {
		t.Errorf("a module of another digest: %d", answer.Status)
	}
	w.push(t, `
metadata: {name: loaded}
spec:
  rules: [{match: {path: {exact: /loaded}}, fault: {abort: {status: 418}}}]`)
	for name, how := range map[string]string{"frontend-1": "from a file", "catalog": "by HTTP"} {
		answer := get(t, client(t, false), w.envoys[name].URL()+"/loaded")
		if answer.Status != 418 || answer.Header.Get("X-Hfi-Fault") != "loaded" {
			t.Errorf("the filter loaded %s: status %d, header %q", how, answer.Status, answer.Header.Get("X-Hfi-Fault"))
		}
	}
}
