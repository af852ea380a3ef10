package envoy

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// A filter that panics on each request, at the end of each delay or on each
// response of the control plane fails no request, leaves none waiting, keeps its
// policies in force, does not ask for policies more often, and counts the panics.
// When the panics end it works as before.
func TestPanicsFailNoRequest(t *testing.T) {
	t.Parallel()
	control := outageStart(t)
	upstream := envoytest.RunUpstream(t)
	// The main thread's VM gets no requests, so it has no panics.
	const vms = 2
	e := &sidecar{name: "frontend-1", vms: vms, Envoy: envoytest.Run(t, envoytest.Config{
		Node: envoytest.Workload("frontend", "demo", "frontend-1"), Concurrency: vms - 1,
		Clusters: []envoytest.Cluster{{Name: "upstream", Address: upstream.Address}, {Name: "daemon", Address: control.address}},
		Listeners: []envoytest.Listener{{Filters: []envoytest.Filter{
			envoytest.Wasm{File: hfidtest.TrapModule(t), Configuration: settings()}.Filter(),
		}}},
	})}
	await(t, "the policies in force", func() bool { return e.has("hfi", `"v1:1"`) })
	panicAt := func(place string) {
		t.Helper()
		answer, err := client(t, false).Do(context.Background(), envoytest.Request{URL: e.URL() + "/ok", Header: http.Header{"X-Hfi-Panic": {place}}})
		if err != nil || answer.Status != 200 {
			t.Fatalf("a request that makes the filter panic at the %s: %+v, %v", place, answer, err)
		}
	}
	panics := func() float64 { return e.value(t, "hfi_panics_total") }
	expect := func(when, path string, requests, status int) {
		t.Helper()
		report := load(t, envoytest.Load{Request: envoytest.Request{URL: e.URL() + path}, Requests: requests, Connections: 16})
		if report.Statuses[status] != requests {
			t.Errorf("%s, each of %d requests for %s should get %d: %s", when, requests, path, status, report)
		}
	}

	panicAt("request")
	expect("with a panic on each request", "/kept", 500, 200)
	if got := panics(); got != 501 {
		t.Errorf("%v panics on 501 requests are counted", got)
	}

	panicAt("delay")
	before := panics()
	expect("with a panic at the end of each delay", "/late", 300, 200)
	if got := panics() - before; got != 300 {
		t.Errorf("%v panics at the end of 300 delays are counted", got)
	}
	await(t, "no request paused", func() bool { return e.value(t, "hfi_paused_streams") == 0 })

	panicAt("answer")
	before = panics()
	busy := outageBusy(t, e.URL())
	began, asked := time.Now(), control.count()
	tag := control.renew()
	await(t, "the filter asks again and again, and panics on the responses", func() bool {
		return control.count()-asked >= 4 && panics()-before >= 3 && time.Since(began) > 3*time.Second
	})
	got := panics() - before
	lasted, during := time.Since(began), control.count()-asked
	if most := 2 * outageTries(lasted); during > most { // another VM may try too
		t.Errorf("the control plane got %d requests in %s; at most %d are allowed", during, lasted, most)
	}
	if got > float64(during+1) { // and one that waited before
		t.Errorf("%v panics on the responses to %d requests are counted", got, during)
	}
	expect("with a panic on each response", "/version-1", 50, 410)
	busy.end()

	panicAt("none")
	await(t, "the new policies in force", func() bool { return e.has("hfi", tag) })
	expect("well again", "/version-2", 50, 410)
	expect("well again", "/version-1", 50, 200)
	asked, before = control.count(), panics()
	time.Sleep(2 * time.Second) // no further request may come
	if more := control.count() - asked; more > vms {
		t.Errorf("%d requests in two seconds without a change", more)
	}
	if got := panics() - before; got != 0 {
		t.Errorf("%v more panics", got)
	}
	await(t, "no request paused", func() bool { return e.value(t, "hfi_paused_streams") == 0 })
}
