package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
)

// These tests run the filter natively on the SDK's emulator with a fake clock. They test
// what takes minutes on a real Envoy, or cannot be provoked there. tests/envoy tests
// everything else on Envoy.

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the emulator's log
	os.Exit(m.Run())
}

// host emulates a worker thread of Envoy with one VM.
type host struct {
	proxytest.HostEmulator
	t  *testing.T
	vm *vm
	at time.Time
	// armed is when the VM last set its tick period, which it does at the end of each
	// callback except those for requests.
	armed time.Time
	// answered counts the VM's requests that have a response.
	answered int
}

// noMetric is the ID of a metric that the host does not have. Incrementing it
// panics.
const noMetric = 1 << 20

const frontendConfig = `{"control_plane_cluster": "hfi"}`

var frontend = map[string]string{"id": "node-1", "metadata.NAME": "frontend-1", "metadata.WORKLOAD_NAME": "frontend", "metadata.NAMESPACE": "demo"}

// start starts a VM on a node with the given properties.
func start(t *testing.T, config string, node map[string]string, version ...uint64) *host {
	h := &host{t: t, at: time.Unix(1_000_000, 0)}
	seed := uint64(7)
	h.vm = newVM(func() uint64 { seed = seed*6364136223846793005 + 1442695040888963407; return seed >> 11 }, func() time.Time { return h.at })
	// The emulator keeps a property beyond its stream.
	h.vm.marked = func() bool { return false }
	options := proxytest.NewEmulatorOption().WithVMContext(&sdkVM{vm: h.vm}).WithPluginConfiguration([]byte(config))
	for name, value := range node {
		path := []string{"xds", "node"}
		if key, isMetadata := cut(name); isMetadata {
			field, below, nested := strings.Cut(key, "/")
			if path = append(path, "metadata", field); nested {
				path = append(path, below)
			}
		} else {
			path = append(path, name)
		}
		options = options.WithProperty(path, []byte(value))
	}
	for i, part := range []string{"major_number", "minor_number"} {
		if i < len(version) {
			options = options.WithProperty([]string{"xds", "node", "user_agent_build_version", "version", part},
				binary.LittleEndian.AppendUint64(nil, version[i]))
		}
	}
	emulator, reset := proxytest.NewHostEmulator(options)
	t.Cleanup(reset)
	h.HostEmulator = emulator
	h.StartVM()
	h.StartPlugin()
	h.armed = h.at
	return h
}

func cut(name string) (string, bool) {
	const prefix = "metadata."
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		return name[len(prefix):], true
	}
	return name, false
}

// poll is the poller of the VM's only plugin context.
func (h *host) poll() *poller { return h.vm.plugins[0].poll }

// pass advances the clock and sends the ticks that the VM has set.
func (h *host) pass(d time.Duration) {
	h.t.Helper()
	end := h.at.Add(d)
	for ticks := 0; ; ticks++ {
		period := time.Duration(h.GetTickPeriod()) * time.Millisecond
		next := h.armed.Add(period)
		if period == 0 || next.After(end) {
			h.at = end
			return
		}
		if ticks > 30_000 {
			h.t.Fatal("the VM ticks forever")
		}
		h.at, h.armed = next, next
		h.Tick()
	}
}

// request returns the headers of the VM's request in flight.
func (h *host) request() map[string]string {
	h.t.Helper()
	all := h.GetCalloutAttributesFromContext(proxytest.PluginContextID)
	if len(all) != h.answered+1 {
		h.t.Fatalf("%d requests are in flight, want 1", len(all)-h.answered)
	}
	headers := map[string]string{}
	for _, header := range all[h.answered].Headers {
		headers[header[0]] = header[1]
	}
	return headers
}

func (h *host) requests() int {
	return len(h.GetCalloutAttributesFromContext(proxytest.PluginContextID))
}

// answer sends a response to the request in flight. Headers with the value "-" are omitted.
func (h *host) answer(status int, body string, changes map[string]string) {
	h.t.Helper()
	h.request()
	if strings.HasPrefix(body, `{"policies":`) {
		body = compile(h.t, body)
	}
	headers := map[string]string{":status": strconv.Itoa(status), "content-length": strconv.Itoa(len(body)), "content-type": program.MediaType}
	maps.Copy(headers, changes)
	var list [][2]string
	for name, value := range headers {
		if value != "-" {
			list = append(list, [2]string{name, value})
		}
	}
	call := h.GetCalloutAttributesFromContext(proxytest.PluginContextID)[h.answered].CalloutID
	h.answered++
	h.CallOnHttpCallResponse(call, list, nil, []byte(body))
	h.armed = h.at
	h.pass(time.Millisecond) // The next request is sent in a tick.
}

// compile compiles a JSON list of policies, as the daemon does.
func compile(t testing.TB, list string) string {
	t.Helper()
	encoded, err := envoytest.Program(list)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoded)
}

// update sends a response with policies that abort with the given statuses.
func (h *host) update(tag string, statuses ...int) {
	h.t.Helper()
	body := `{"policies":[`
	for i, status := range statuses {
		if i > 0 {
			body += ","
		}
		body += fmt.Sprintf(`{"metadata":{"name":"p%d"},"spec":{"rules":[{"fault":{"abort":{"status":%d}}}]}}`, i, status)
	}
	h.answer(200, body+"]}", map[string]string{"etag": `"` + tag + `"`, "x-hfi-commit": "c-" + tag, "x-hfi-revision": "r-" + tag})
}

// status sends a request and returns its status: the upstream's 200, or that of an abort.
func (h *host) status() int {
	h.t.Helper()
	id := h.InitializeHttpContext()
	defer h.CompleteHttpContext(id)
	h.CallOnRequestHeaders(id, [][2]string{{":method", "GET"}, {":path", "/"}}, true)
	if response := h.GetSentLocalResponse(id); response != nil {
		return int(response.StatusCode)
	}
	return 200
}

func (h *host) mustGet(status int) {
	h.t.Helper()
	if got := h.status(); got != status {
		h.t.Errorf("a request has status %d, want %d", got, status)
	}
}

func (h *host) counter(name string) uint64 {
	h.t.Helper()
	value, err := h.GetCounterMetric(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return value
}
