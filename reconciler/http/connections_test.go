package http

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// Fewer clients may wait than connect and, at the limit, an idle connection
// makes room. The metrics and the status say how many there are.
func TestConnectionsAreLimited(t *testing.T) {
	const most = 24
	d := start(t, func(s *Server) { s.MaxConnections = most })
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask(frontendWaits).header.Get("ETag")
	var open []net.Conn
	for range most - leastFree {
		connection, _ := d.raw("GET /v1/policies?service=frontend&namespace=demo&wait=10m HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: " + tag + "\r\n\r\n")
		open = append(open, connection)
	}
	d.waiting(most - leastFree)
	// Of those that wait there are enough now, by HTTP/1.1.
	got := d.ask(frontendWaits, "If-None-Match", tag).expectError(t, 503, "too_many_waiting")
	if got.header.Get("Connection") != "close" || got.header.Get("Retry-After") != "30" {
		t.Errorf("too many wait: %v", got.header)
	}
	two := d.onHTTP2()
	waits := two.begin(frontendWaits, "If-None-Match", tag)
	d.waiting(most - leastFree + 1)
	// Connections without a request take each other's place, and nobody else's.
	var idle []*bufio.Reader
	for range 3 * most {
		_, reader := d.raw("")
		idle = append(idle, reader)
	}
	if _, err := idle[0].ReadByte(); err != io.EOF {
		t.Errorf("the longest idle connection: %v", err)
	}
	d.onItsOwn().ask("GET /health").expect(t, 200)
	d.waiting(most - leastFree + 1)
	if open := d.connectionsStatus().Open; open > most {
		t.Errorf("%d connections are open", open)
	}
	if got := d.sample("hfi_http_connections_limit"); got != "24" {
		t.Errorf("the metric of the limit is %s", got)
	}
	for _, connection := range open {
		connection.Close()
	}
	d.waiting(1)
	d.serve(stateOf(2, oneEach(1)))
	two.await(waits).expect(t, 200)
}

// One connection, on which many requests wait by HTTP/2, does not take all places.
func TestWaitsOnOneConnectionAreLimited(t *testing.T) {
	d := start(t, nil)
	d.serve(stateOf(1, exampleSet()))
	tag := d.ask(frontendWaits).header.Get("ETag")
	two := d.onHTTP2()
	two.ask("GET /health").expect(t, 200)
	var waits []<-chan answer
	for range mostWaitingOnOne {
		waits = append(waits, two.begin(frontendWaits, "If-None-Match", tag))
	}
	d.waiting(mostWaitingOnOne)
	got := two.ask(frontendWaits, "If-None-Match", tag).expectError(t, 503, "too_many_waiting")
	if got.header.Get("Retry-After") != "30" {
		t.Errorf("too many wait on a connection: %v", got.header)
	}
	two.ask("GET /health").expect(t, 200)
	other := d.onHTTP2().begin(frontendWaits, "If-None-Match", tag)
	d.waiting(mostWaitingOnOne + 1)
	d.serve(stateOf(2, oneEach(1)))
	for _, wait := range append(waits, other) {
		two.await(wait).expect(t, 200)
	}
	d.waiting(0)
	// Those that have left make room.
	tag = two.ask(frontendWaits).header.Get("ETag")
	again := two.begin(frontendWaits, "If-None-Match", tag)
	d.waiting(1)
	d.serve(stateOf(3, exampleSet()))
	two.await(again).expect(t, 200)
}

// A client for which there is no room reads why.
func TestRefusedConnectionsAreTold(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	limited := newLimitedListener(inner, 1, func() { refused++ })
	accepted := make(chan net.Conn, 3)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			connection, err := limited.Accept()
			if err != nil {
				return
			}
			limited.state(connection, http.StateActive)
			accepted <- connection
		}
	}()
	dial := func() net.Conn {
		connection, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close() })
		return connection
	}
	dial()
	first := <-accepted
	second := dial()
	if _, err := io.WriteString(second, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(second), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "too_many_connections") {
		t.Errorf("got %s %v %s: %v", response.Status, response.Header, body, err)
	}
	limited.state(first, http.StateClosed)
	dial()
	testtool.Eventually(t, "the next one is accepted", func() bool { return len(accepted) == 1 })
	first.Close()
	(<-accepted).Close()
	inner.Close()
	<-ended
	if refused != 1 || limited.count() != 1 {
		t.Errorf("%d refused, %d open", refused, limited.count())
	}
}
