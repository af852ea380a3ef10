package oldhost

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

const settings = `{"control_plane_cluster": "daemon", "stale_after": "10s"}`

// policies are a fault of each kind for service frontend, in a version.
func policies(version int) map[string]string {
	return map[string]string{"policies/all.yaml": fmt.Sprintf(`
metadata: {name: all}
spec:
  selector: {service: frontend, namespace: demo}
  rules:
  - {match: {path: {exact: /abort}}, fault: {abort: {status: 418, body: version %d}}}
  - {match: {path: {exact: /delay}}, fault: {delay_ms: 50}}
  - {match: {path: {regex: "/b[ot]+h"}, headers: [{name: x-user, exact: tester}]}, fault: {delay_ms: 50, abort: {status: 503}}}
  - {match: {path: {exact: /held}}, fault: {delay_ms: 100000}}
`, version)}
}

// world is a daemon and a host whose filter asks it.
type world struct {
	repo   *gittest.Repo
	daemon *hfidtest.Daemon
	*host
	plugin uint32
}

// start starts the daemon, and the filter as Envoy does: in a first VM, in one that
// tries the configuration, and in that of a thread.
func start(t *testing.T) *world {
	return startAs(t, hfidtest.Module(t), 32, settings)
}

// startAs starts another build of it, in a minor version of Envoy, with other settings.
func startAs(t *testing.T, file string, minor uint64, settings string) *world {
	w := &world{repo: gittest.New(t)}
	w.repo.Commit("Begin", policies(1))
	w.repo.Push()
	w.daemon = hfidtest.Run(t, w.repo.Bare())
	module, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.host = newHost(t)
		w.clusters["daemon"] = w.daemon.URL()
		w.clusters["outbound|8080||hfi-control-plane.boifi.svc.cluster.local"] = w.daemon.URL()
		w.properties = map[string]string{
			// The property xds, of later Envoys, is not needed.
			"node.id": "sidecar~1", "node.metadata.NAME": "frontend-1", "node.metadata.WORKLOAD_NAME": "frontend", "node.metadata.NAMESPACE": "demo",
			"xds.node.user_agent_build_version.version.major_number": number(1),
			"xds.node.user_agent_build_version.version.minor_number": number(minor),
		}
		if err := w.load(module); err != nil {
			t.Fatalf("%v\nits log ends with\n%s", err, strings.Join(w.log, "\n"))
		}
		w.plugin = w.startPlugin(settings)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the filter's log ends with\n%s", strings.Join(w.log[max(0, len(w.log)-20):], "\n"))
		}
	})
	return w
}

// number encodes a number as Envoy encodes one in a property.
func number(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// push pushes policies, and waits until they are in force.
func (w *world) push(version int) {
	w.t.Helper()
	updates := w.value("hfi.config.updates_total")
	w.repo.Commit(fmt.Sprint("Version ", version), policies(version))
	w.repo.Push()
	w.until("the policies are in force", func() bool { return w.value("hfi.config.updates_total") > updates })
}

func (w *world) wantAbort(version int) {
	w.t.Helper()
	c := w.request(w.plugin, "/abort")
	if r := c.response; r == nil || r.status != 418 || r.body != fmt.Sprint("version ", version) || header(r.headers, "x-hfi-fault") != "all" {
		w.t.Errorf("request /abort: %+v", r)
	}
	if c.marks["hfi_fault"] != "abort=all" {
		w.t.Errorf("the marks of request /abort are %q", c.marks)
	}
	w.end(c)
}

func TestStories(t *testing.T) {
	w := start(t)
	if c := w.request(w.plugin, "/abort"); c.paused || c.response != nil {
		t.Error("a request is held before the daemon has answered")
	} else {
		w.end(c)
	}
	w.until("the first policies are in force", func() bool { return w.said("Received config update from control plane") })
	w.wantAbort(1)
	if c := w.request(w.plugin, "/ok"); c.paused || c.response != nil || len(c.marks) != 0 {
		t.Errorf("request /ok: %+v", c)
	} else {
		w.end(c)
	}

	// Delays end in time, whatever their order, and with the abort of the same rule.
	began := time.Now()
	delayed, both := w.request(w.plugin, "/delay"), w.request(w.plugin, "/both", [2]string{"x-user", "tester"})
	held := w.request(w.plugin, "/held")
	for _, c := range []*contextOf{delayed, both, held} {
		if !c.paused {
			t.Fatalf("a request is not delayed: %+v", c)
		}
	}
	if paused := w.value("hfi.paused_streams"); paused != 3 {
		t.Errorf("%d streams are paused, want 3", paused)
	}
	w.until("the delays end", func() bool { return !delayed.resumed.IsZero() && both.response != nil })
	for what, at := range map[string]time.Time{"/delay": delayed.resumed, "/both": both.response.at} {
		if took := at.Sub(began); took < 50*time.Millisecond {
			t.Errorf("the delay of %s took %s", what, took)
		}
	}
	if both.response.status != 503 {
		t.Errorf("request /both: %+v", both.response)
	}
	// The client of the third disconnects.
	for _, c := range []*contextOf{delayed, both, held} {
		w.end(c)
	}
	if paused := w.value("hfi.paused_streams"); paused != 0 {
		t.Errorf("%d streams are paused, want none", paused)
	}

	w.push(2)
	w.wantAbort(2)
	w.until("the daemon reports the filter as current", func() bool {
		f := w.daemon.Status().Filters
		return len(f.Items) == 1 && f.Items[0].State == api.FilterCurrent && f.Items[0].Service == "frontend"
	})

	// A second listener's settings, and the end of the first's.
	second := w.startPlugin(`{"control_plane_cluster": "daemon", "stale_after": "10s", "fault_header": false}`)
	if c := w.request(second, "/abort"); c.response == nil || header(c.response.headers, "x-hfi-fault") != "" {
		t.Errorf("request /abort of the second listener: %+v", c.response)
	} else {
		w.end(c)
	}
	w.end(w.contexts[w.plugin])
	w.plugin = second

	w.daemon.Kill()
	w.until("injection ends without the daemon", func() bool { return w.value("hfi.config.stale") == 1 })
	if c := w.request(w.plugin, "/abort"); c.paused || c.response != nil {
		t.Errorf("request /abort without the daemon: %+v", c.response)
	}
	if panics := w.value("hfi.panics_total"); panics != 0 {
		t.Errorf("%d panics", panics)
	}
}

// TestManyConfigurations checks that a VM with many plugin contexts, of which all but the first
// end, continues to ask for policies.
func TestManyConfigurations(t *testing.T) {
	w := start(t)
	w.until("the first policies are in force", func() bool { return w.said("Received config update from control plane") })
	var others []uint32
	for i := range 25 {
		others = append(others, w.startPlugin(fmt.Sprintf(`{"control_plane_cluster": "daemon", "stale_after": "10s", "max_delay": %d}`, 1+i)))
	}
	for _, id := range others {
		if c := w.request(id, "/abort"); c.response == nil {
			t.Errorf("request /abort in plugin context %d is not aborted", id)
		} else {
			w.end(c)
		}
	}
	for _, id := range others {
		w.end(w.contexts[id])
	}
	w.push(2)
	w.wantAbort(2)
	held := w.request(w.plugin, "/held")
	w.end(held)
	if paused := w.value("hfi.paused_streams"); !held.paused || paused != 0 {
		t.Errorf("%d streams are paused", paused)
	}
}

// TestUnable checks that a filter that cannot inject faults tells the daemon why.
func TestUnable(t *testing.T) {
	for name, c := range map[string]struct {
		minor         uint64
		settings, why string
	}{
		"an older Envoy": {31, settings, "its only VM cannot inject faults: Envoy 1.31 is not supported: no faults are injected; the filter needs Envoy 1.32 or newer"},
		"no settings":    {32, "{}", "its only VM cannot inject faults: neither control_plane_address nor control_plane_cluster is set: the filter gets no policies"},
	} {
		t.Run(name, func(t *testing.T) {
			w := startAs(t, hfidtest.Module(t), c.minor, c.settings)
			w.until("the daemon says why", func() bool {
				f := w.daemon.Status().Filters
				return f.Unable == 1 && f.Items[0].Message == c.why && f.Items[0].Envoy == fmt.Sprint("1.", c.minor)
			})
			if request := w.request(w.plugin, "/abort"); request.paused || request.response != nil {
				t.Errorf("request /abort: %+v", request.response)
			}
		})
	}
}

// maxGrowth is how much the memory may grow after warm-up: less than 100 bytes a request.
const maxGrowth = 1 << 20

// TestCollectionsUnderLoad makes the Go runtime collect garbage all the time while
// requests are delayed and policies change. Its memory does not grow.
func TestCollectionsUnderLoad(t *testing.T) {
	w := startAs(t, hfidtest.TrapModule(t), 32, settings)
	w.until("the first policies are in force", func() bool { return w.said("Received config update from control plane") })
	// A header that does not fit into the filter's buffer, so that it allocates memory for it.
	large := [2]string{"x-user", strings.Repeat("x", 16<<10)}
	collect := func() int {
		w.end(w.request(w.plugin, "/ok", [2]string{"x-hfi-collect", "1"}))
		return hfidtest.Collections(strings.Join(w.log, "\n"))
	}
	versions, collections, requests := 1, collect(), 0
	rounds := 6
	var delayed []*contextOf
	var warm uint32
	for round := range rounds {
		for end := time.Now().Add(400 * time.Millisecond); time.Now().Before(end); w.handle() {
			for range 100 {
				requests++
				for _, path := range []string{"/ok", "/abort", "/both"} {
					w.end(w.request(w.plugin, path, large))
				}
			}
			if c := w.request(w.plugin, "/delay"); !c.paused {
				t.Fatal("a request is not delayed")
			} else {
				delayed = append(delayed, c)
			}
			rest := delayed[:0]
			for _, c := range delayed {
				if c.paused {
					rest = append(rest, c)
				} else {
					w.end(c)
				}
			}
			delayed = rest
		}
		versions++
		w.push(versions)
		w.wantAbort(versions)
		w.log = nil
		collections = collect()
		if round == rounds/2 {
			warm = w.memory.Size()
		}
	}
	w.until("all delays end", func() bool {
		for _, c := range delayed {
			if c.paused {
				return false
			}
		}
		return true
	})
	t.Logf("%d requests, %d collections, %d MiB of memory", 3*requests, collections, w.memory.Size()>>20)
	if collections < 3*rounds {
		t.Errorf("only %d collections: the test checks little", collections)
	}
	if most := warm + maxGrowth; w.memory.Size() > most {
		t.Errorf("the memory grew from %d to %d bytes", warm, w.memory.Size())
	}
	if panics := w.value("hfi.panics_total"); panics != 0 {
		t.Errorf("%d panics", panics)
	}
}
