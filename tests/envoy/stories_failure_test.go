package envoy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// future is a daemon of a later version: its policies have fields and faults that the filter does not know.
type future struct{ server *httptest.Server }

func (f *future) Address() string { return f.server.Listener.Addr().String() }

func newFuture(owner testing.TB) *future {
	set := envoytest.MustProgram(`{"policies": [
		{"metadata": {"name": "known"}, "spec": {"rules": [{"match": {"path": {"exact": "/future"}}, "fault": {"abort": {"status": 418}}}]}},
		{"metadata": {"name": "newer"}, "spec": {"rules": [{"fault": {"abort": {"status": 500}}}]}}]}`)
	// The policy "newer" needs a feature that this filter lacks, and there is a section that it does not know.
	const selector = "\x05newer\x01*\x01*"
	at := strings.Index(set, selector) + len(selector)
	set = set[:at] + "\x01" + set[at+1:] + "\xc8\x03new"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"new"`)
		w.Header().Set("X-Hfi-Commit", "fa57")
		if r.Header.Get("If-None-Match") == `"new"` {
			select {
			case <-r.Context().Done():
			case <-time.After(15 * time.Second):
			}
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Content-Type", program.MediaType)
		_, _ = io.WriteString(w, set)
	}))
	owner.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return &future{server}
}

// With invalid settings of the filter, requests pass, and the log says what to do.
func TestInvalidSettingsFailNoRequest(t *testing.T) {
	w := mesh(t)
	w.push(t, `
metadata: {name: known}
spec:
  rules: [{match: {path: {exact: /known}}, fault: {abort: {status: 418}}}]`)
	half := w.envoys["half"]
	for _, c := range []struct {
		listener string
		status   int
		logs     []string
	}{
		{"no-json", 200, []string{"the configuration is not a JSON object"}},
		{"nowhere", 200, []string{"neither control_plane_address nor control_plane_cluster is set"}},
		{"no-cluster", 200, []string{"no cluster outbound|8080||hfi-control-plane.boifi.svc.cluster.local", "to the egress hosts of the Sidecar resource"}},
		// Valid settings apply.
		{"odd", 418, []string{"setting colour: unknown setting", `setting max_delay: "soon" is not a duration such as 10m`}},
	} {
		t.Run(c.listener, func(t *testing.T) {
			for _, line := range c.logs {
				if err := half.WaitLog(line, envoytest.WaitLimit); err != nil {
					t.Error(err)
				}
			}
			if c.status == 418 {
				etag := w.daemon.Policies(half.query).ETag
				await(t, "the policies in force", func() bool { return half.has(c.listener, etag) })
			}
			if answer := getOnce(t, half.ListenerURL(c.listener)+"/known"); answer.Status != c.status {
				t.Errorf("status %d", answer.Status)
			}
			if answer := getOnce(t, half.ListenerURL(c.listener)+"/ok"); answer.Status != 200 || answer.Body != "ok" {
				t.Errorf("another request: %d %q", answer.Status, answer.Body)
			}
		})
	}
}

// Fields and policies that the filter does not know do not affect others.
func TestUnknownFieldsOfANewerDaemonAreIgnored(t *testing.T) {
	w := mesh(t)
	half := w.envoys["half"]
	await(t, "the newer daemon's policies in force", func() bool { return half.has("future", `"new"`) })
	if answer := getOnce(t, half.ListenerURL("future")+"/future"); answer.Status != 418 || answer.Header.Get("X-Hfi-Fault") != "known" {
		t.Errorf("status %d", answer.Status)
	}
	if answer := getOnce(t, half.ListenerURL("future")+"/ok"); answer.Status != 200 {
		t.Errorf("another request: status %d", answer.Status)
	}
	if err := half.WaitLog(`policies that need a newer filter are skipped: newer`, envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
}

// While the daemon has not started yet, requests pass. When it starts, its policies
// apply. When it is killed they stay in force for stale_after, here three seconds,
// and then injection stops, as a log line and a metric say. When it is back, the
// policies apply again.
func TestDaemonStartsLateAndRestarts(t *testing.T) {
	w := mesh(t)
	half, url := w.envoys["half"], w.envoys["half"].ListenerURL("late")
	status := func() int { return getOnce(t, url+"/late").Status }
	stale := func() float64 { return w.stats(t, "half").Value("hfi_config_stale") }
	if got := status(); got != 200 {
		t.Errorf("before the daemon starts: status %d", got)
	}
	if err := half.WaitLog("fetching policies from the control plane failed (attempt 1): status 503", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	if errors := w.stats(t, "half").Value("hfi_config_poll_errors_total"); errors == 0 {
		t.Error("no errors are counted")
	}

	repo := gittest.New(t)
	repo.Commit("Abort", map[string]string{"policies/late.yaml": targeted("late", `{service: frontend}`)})
	repo.Push()
	late := hfidtest.New(t, repo.Bare(), "--listen", w.late)
	late.Start()
	late.WaitReady()
	await(t, "the late daemon's policy in force", func() bool { return status() == 418 })
	if !strings.Contains(half.Log(), "the control plane responds again after ") {
		t.Error("the log does not say that the daemon responds")
	}
	// While the daemon responds, policies that do not change for longer than stale_after are not stale.
	testtool.Throughout(t, 4*time.Second, "no policy is stale while the daemon responds", func() error {
		if got := status(); got != 418 || stale() != 0 {
			return fmt.Errorf("status %d, stale %v", got, stale())
		}
		return nil
	})

	late.Kill()
	killed := time.Now()
	for time.Since(killed) < time.Second {
		// The daemon's last response was, at worst, half of stale_after before its end.
		if got, after := status(), time.Since(killed); got != 418 && after < time.Second {
			t.Fatalf("%s after the daemon's end: status %d", after, got)
		}
	}
	await(t, "the end of injection", func() bool { return status() == 200 })
	t.Logf("injection ended %s after the daemon", time.Since(killed))
	if err := half.WaitLog("no response from the control plane for 3s: fault injection stops", envoytest.WaitLimit); err != nil {
		t.Error(err)
	}
	await(t, "the metric hfi_config_stale", func() bool { return stale() == 1 })

	late.Start()
	late.WaitReady()
	await(t, "the policy in force again", func() bool { return status() == 418 })
	await(t, "the metric hfi_config_stale at 0", func() bool { return stale() == 0 })
}
