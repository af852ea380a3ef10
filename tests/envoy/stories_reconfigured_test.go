package envoy

import (
	"context"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
)

// When a running Envoy gets another configuration for the filter, its settings
// apply, its policies stay in force, and it continues to ask for policies. A
// listener that is removed and added again gets the policies again.
func TestFilterSurvivesConfigurationUpdates(t *testing.T) {
	w := mesh(t)
	half := w.envoys["half"]
	pushDynamic := func(status string) {
		t.Helper()
		w.push(t, `
metadata: {name: dynamic}
spec:
  rules: [{match: {path: {prefix: /}}, fault: {abort: {status: `+status+`}}}]`)
		etag := w.daemon.Policies(half.query).ETag
		await(t, "the policies in force in the changing listener", func() bool { return half.has("dynamic", etag) })
	}
	expect := func(when string, status int, header string) {
		t.Helper()
		answer := getOnce(t, half.ListenerURL("dynamic")+"/ok")
		if answer.Status != status || answer.Header.Get("X-Hfi-Fault") != header {
			t.Errorf("%s: status %d, header %q, and not %d, %q", when, answer.Status, answer.Header.Get("X-Hfi-Fault"), status, header)
		}
	}
	change := func(listeners ...envoytest.Listener) {
		t.Helper()
		if err := half.SetDynamic(listeners...); err != nil {
			t.Fatal(err)
		}
	}
	pushDynamic("418")
	expect("at first", 418, "dynamic")

	// Under load, every response is the same while the settings change.
	reports, stop := make(chan *envoytest.Report, 1), make(chan struct{})
	url := half.ListenerURL("dynamic")
	go func() { reports <- loadUntil(url+"/ok", stop) }()
	for _, off := range []bool{true, false, true} {
		change(dynamic(t, settings("fault_header", !off)))
		header := map[bool]string{true: "", false: "dynamic"}[off]
		await(t, "the new settings in force", func() bool {
			return getOnce(t, half.ListenerURL("dynamic")+"/ok").Header.Get("X-Hfi-Fault") == header
		})
		expect("with other settings", 418, header)
		time.Sleep(200 * time.Millisecond) // some requests are sent with these settings
	}
	close(stop)
	report := <-reports
	t.Logf("while settings changed three times: %s", report)
	if report.Statuses[418] != report.Answers() || report.Answers() == 0 || report.Errors != 0 {
		t.Errorf("while settings changed: %s", report)
	}

	pushDynamic("419")
	expect("after a push", 419, "")
	// The replaced listeners' plugin contexts end after Envoy's drain time.
	await(t, "the end of the replaced listeners", func() bool {
		return w.stats(t, "half").Value("envoy_listener_manager_total_listeners_draining") == 0
	})
	pushDynamic("420")
	expect("after a push, with the replaced listeners gone", 420, "")

	change()
	if _, err := envoytest.NewClient(false).Get(context.Background(), url); err == nil {
		t.Error("the removed listener still responds")
	}
	pushed := time.Now()
	change(dynamic(t, nil))
	await(t, "the policies in force again", func() bool { return getOnce(t, half.ListenerURL("dynamic")+"/ok").Status == 420 })
	t.Logf("a listener that was added again had its policies after %s", time.Since(pushed))
	pushDynamic("421")
	expect("in the listener that was added again", 421, "dynamic")
}

// loadUntil sends requests until stop is closed.
func loadUntil(url string, stop <-chan struct{}) *envoytest.Report {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	report, _ := envoytest.Load{
		Request: envoytest.Request{URL: url}, Connections: 4, Duration: envoytest.WaitLimit, Rate: 500,
	}.Run(ctx)
	return report
}
