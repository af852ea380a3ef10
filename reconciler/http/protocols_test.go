package http

import (
	"net/http"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// onHTTP2 is the same daemon for a client that speaks HTTP/2 without TLS from
// the first byte on, as an Envoy does whose cluster says so.
func (d *daemon) onHTTP2() *daemon {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	d.t.Cleanup(transport.CloseIdleConnections)
	other := *d
	other.client = &http.Client{Transport: transport, Timeout: d.client.Timeout}
	return &other
}

// HTTP/2 without TLS does what HTTP/1.1 does: answers, errors, waiting, and a
// confirmed VM that leaves.
func TestHTTP2WithoutTLS(t *testing.T) {
	d := start(t, func(s *Server) { s.fleet.Grace = 300 * time.Millisecond })
	d.serve(stateOf(1, exampleSet()))
	two := d.onHTTP2()
	response, err := two.client.Get(two.url + "/health")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.ProtoMajor != 2 || response.StatusCode != 200 {
		t.Fatalf("got %s by %s", response.Status, response.Proto)
	}
	if one, other := d.ask("GET /v1/policies"), two.ask("GET /v1/policies"); one.body != other.body || one.header.Get("ETag") != other.header.Get("ETag") {
		t.Errorf("by HTTP/2 the policies are %s", other.body)
	}
	two.ask("POST /v1/policies").expectError(t, 405, "method_not_allowed")
	two.ask("GET /v1/nowhere").expectError(t, 404, "not_found")
	tag := two.ask(frontendAsks).header.Get("ETag")
	waits := two.begin(frontendAsks+"&wait=60s", "If-None-Match", tag)
	d.waiting(1)
	d.serve(stateOf(2, schema.NewSet()))
	two.await(waits).expect(t, 200)
	vm := runVM(t, "frontend-a", "1", "20s", two)
	d.awaitFilters(1, 0, 0)
	vm.leave()
	d.awaitFilters(0, 0, 0)
}
