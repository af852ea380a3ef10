package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// buildFixture builds a module with Go and the SDK, as the filter is built.
func buildFixture(t *testing.T) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out := filepath.Join(t.TempDir(), "fixture.wasm")
	build := exec.CommandContext(ctx, "go", "build", "-buildmode=c-shared", "-ldflags=-s -w", "-o", out, "./testdata/fixture")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if said, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the fixture: %v\n%s", err, said)
	}
	return read(t, out)
}

func TestSDKModule(t *testing.T) {
	original := buildFixture(t)
	rewritten := mustRewrite(t, original)
	if !bytes.Equal(rewritten, mustRewrite(t, original)) {
		t.Error("equal modules were rewritten differently")
	}

	// The test below depends on the SDK's callbacks.
	before := load(t, original, nil).exported()
	for _, name := range []string{"proxy_on_log", "proxy_on_done", "proxy_on_request_body", "proxy_on_response_headers", "proxy_on_queue_ready"} {
		if !slices.Contains(before, name) {
			t.Errorf("the SDK does not export %s", name)
		}
	}

	// The fixture imports at least what the filter does, which is compiled without more of Go.
	if diff := cmp.Diff(oldest, importsOf(t, rewritten)); diff != "" {
		t.Errorf("the imports of WASI differ (-want +got):\n%s", diff)
	}
	all := importsOf(t, original)
	for _, r := range replacements {
		if !slices.Contains(all, r.name) {
			t.Errorf("a module built with Go does not import %s: is it still to be replaced?", r.name)
		}
	}

	e := load(t, rewritten, nil)
	want := strings.Fields(`_initialize memory proxy_abi_version_0_2_0 proxy_on_configure proxy_on_context_create proxy_on_delete
		proxy_on_http_call_response proxy_on_memory_allocate proxy_on_queue_ready proxy_on_request_headers proxy_on_tick proxy_on_vm_start`)
	if diff := cmp.Diff(want, e.exported()); diff != "" {
		t.Errorf("the exports differ (-want +got):\n%s", diff)
	}

	// The calls are in Envoy's order. The fixture's state is 0, and each tick
	// increments it. At first, streams are not reported.
	e.call("_initialize", nil)
	e.call("proxy_on_context_create", is(1, 0), "plugin 1")
	if ok := e.call("proxy_on_vm_start", is(1, 0), "vm start"); ok != 1 {
		t.Error("the VM did not start")
	}
	if ok := e.call("proxy_on_configure", is(1, 0), "plugin 1 start"); ok != 1 {
		t.Error("the plugin did not start")
	}
	stream := func(id, headers, wantAction uint32, wantCalls ...string) {
		t.Helper()
		e.call("proxy_on_context_create", is(id, 1))
		if action := e.call("proxy_on_request_headers", is(id, headers, 1), wantCalls...); action != wantAction {
			t.Errorf("the action is %d, want %d", action, wantAction)
		}
	}
	stream(2, 5, 0)
	e.call("proxy_on_queue_ready", is(1, 9), "plugin 1 note 9")
	e.call("proxy_on_queue_ready", is(2, 9)) // The SDK would trap.
	e.call("proxy_on_delete", is(2))

	// 1, stateRules: requests are decided on, their ends are not reported.
	e.call("proxy_on_tick", is(1), "plugin 1 tick 1")
	stream(3, 4, 0, "hfi request 3 headers 4 end true")
	stream(4, 5, 1, "hfi request 4 headers 5 end true")
	e.call("proxy_on_delete", is(3))
	e.call("proxy_on_delete", is(4))

	// 2, statePaused: only the ends are reported.
	e.call("proxy_on_tick", is(1), "plugin 1 tick 2")
	stream(5, 5, 0)
	e.call("proxy_on_delete", is(5), "hfi delete 5")

	// 3: both. A new configuration comes with a new plugin context in the same
	// VM, and the old one ends; the SDK would trap if a call were missing.
	e.call("proxy_on_tick", is(1), "plugin 1 tick 3")
	e.call("proxy_on_context_create", is(6, 0), "plugin 6")
	e.call("proxy_on_configure", is(6, 0), "plugin 6 start")
	e.call("proxy_on_delete", is(1), "plugin 1 done")
	stream(1, 5, 1, "hfi request 1 headers 5 end true")
	e.call("proxy_on_delete", is(1), "hfi delete 1")

	// 4, stateMixed: the starts and the ends are reported.
	e.call("proxy_on_tick", is(6), "plugin 6 tick 4")
	e.call("proxy_on_context_create", is(7, 6), "hfi create 7 in 6")
	e.call("proxy_on_request_headers", is(7, 5, 1))
	e.call("proxy_on_delete", is(7), "hfi delete 7")

	// Many streams, so that a leak or a collection in the Go runtime shows.
	for tick := 5; tick <= 9; tick++ { // 9 has stateRules alone.
		e.call("proxy_on_tick", is(6), fmt.Sprint("plugin 6 tick ", tick))
	}
	for id := uint32(100); id < 5000; id++ {
		stream(id, 2, 0, fmt.Sprintf("hfi request %d headers 2 end true", id))
		e.call("proxy_on_delete", is(id))
	}
	// The buffer is the module's variable of 64 bytes; larger data is allocated as a Go object, as it is outside a request.
	var buffer []uint32
	e.during["proxy_log"] = func() { buffer = e.allocations(40, 100, 24, 1) }
	stream(5000, 2, 0, "hfi request 5000 headers 2 end true")
	delete(e.during, "proxy_log")
	e.call("proxy_on_delete", is(5000))
	outside := e.allocations(8)[0]
	inBuffer := func(address uint32) bool { return address >= buffer[0] && address < buffer[0]+64 }
	if buffer[0] == 0 || buffer[2] != buffer[0]+40 || inBuffer(buffer[1]) || inBuffer(buffer[3]) || outside == 0 || inBuffer(outside) {
		t.Errorf("within a request the addresses are %d, outside %d", buffer, outside)
	}
	e.call("proxy_on_delete", is(6), "plugin 6 done")
}
