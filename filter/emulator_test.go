package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm/proxytest"
)

// These tests run the glue on the SDK's emulator, natively and with a clock of
// their own: for what a real Envoy shows only after minutes, or not at all.
// Everything else is tested on Envoy, in tests/envoy.

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the emulator's own
	os.Exit(m.Run())
}

// host is an Envoy's thread, emulated, with one VM in it.
type host struct {
	proxytest.HostEmulator
	t  *testing.T
	vm *vm
	at time.Time
	// armed is when the VM last set its tick's period, as it does at the end of each callback but a request's.
	armed time.Time
	// answered is how many of the VM's requests have had an answer.
	answered int
}

// noMetric is the number of a metric that the host does not know: the SDK
// panics when it is counted.
const noMetric = 1 << 20

const frontendConfig = `{"control_plane_cluster": "hfi"}`

var frontend = map[string]string{"id": "node-1", "metadata.NAME": "frontend-1", "metadata.WORKLOAD_NAME": "frontend", "metadata.NAMESPACE": "demo"}

// start starts a VM on a node whose properties are given.
func start(t *testing.T, config string, node map[string]string, version ...uint64) *host {
	h := &host{t: t, at: time.Unix(1_000_000, 0)}
	seed := uint64(7)
	h.vm = newVM(func() uint64 { seed = seed*6364136223846793005 + 1442695040888963407; return seed >> 11 }, func() time.Time { return h.at })
	options := proxytest.NewEmulatorOption().WithVMContext(&sdkVM{vm: h.vm}).WithPluginConfiguration([]byte(config))
	for name, value := range node {
		path := []string{"xds", "node"}
		if key, isMetadata := cut(name); isMetadata {
			path = append(path, "metadata", key)
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

// pass lets time go by, with the ticks that the VM asked for.
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
		if ticks > 100_000 {
			h.t.Fatal("the VM ticks without an end")
		}
		h.at, h.armed = next, next
		h.Tick()
	}
}

// request is what the VM asks of the daemon at the moment.
func (h *host) request() map[string]string {
	h.t.Helper()
	all := h.GetCalloutAttributesFromContext(proxytest.PluginContextID)
	if len(all) != h.answered+1 {
		h.t.Fatalf("%d requests are under way, not one", len(all)-h.answered)
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

// answer answers the request that is under way. Headers with the value "-" are left out.
func (h *host) answer(status int, body string, changes map[string]string) {
	h.t.Helper()
	h.request()
	headers := map[string]string{":status": strconv.Itoa(status), "content-length": strconv.Itoa(len(body))}
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
}

// update answers with policies that abort with the given statuses.
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

// status is what a request gets now: the upstream's 200, or an abort.
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
		h.t.Errorf("a request gets %d, and should get %d", got, status)
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
