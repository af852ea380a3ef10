package envoy

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/hfidtest"
)

// A filter that panics, on each request, at the end of each
// delay or on each answer of the control plane, fails no request, leaves none
// waiting, keeps what is in force, asks for policies no more often for it, and
// counts what happened. Once it is well again it goes on as before.
func TestPanicsFailNoRequest(t *testing.T) {
	t.Parallel()
	control := outageStart(t)
	upstream := envoytest.RunUpstream(t)
	// The main thread's VM has no requests, and so no panics.
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
			t.Errorf("%s, of %d requests of %s each should get %d: %s", when, requests, path, status, report)
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
	time.Sleep(4 * time.Second) // of answers that make it panic: it may ask so seldom, and no more seldom
	lasted, during := time.Since(began), control.count()-asked
	if most := vms * outageTries(lasted); during > most || during < 4 {
		t.Errorf("the control plane was asked %d times in %s, and %d would be the most", during, lasted, most)
	}
	if got := panics() - before; got < 3 || got > float64(during) {
		t.Errorf("%v panics on the answers to %d requests are counted", got, during)
	}
	expect("with a panic on each answer", "/version-1", 50, 410)
	busy.end()

	panicAt("none")
	await(t, "the new policies in force", func() bool { return e.has("hfi", tag) })
	expect("well again", "/version-2", 50, 410)
	expect("well again", "/version-1", 50, 200)
	asked, before = control.count(), panics()
	time.Sleep(2 * time.Second) // of calm, in which no more may come
	if more := control.count() - asked; more > vms {
		t.Errorf("%d requests came in two seconds of calm", more)
	}
	if got := panics() - before; got != 0 {
		t.Errorf("%v more panics", got)
	}
	await(t, "no request paused", func() bool { return e.value(t, "hfi_paused_streams") == 0 })
}
