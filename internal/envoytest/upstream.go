package envoytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Upstream is a server behind Envoy. It supports HTTP/1.1 and, with prior knowledge, HTTP/2, and
// responds to
//
//   - /stream?chunks=N&gap=D with N numbered lines, each flushed, a gap apart;
//   - /slow?for=D after that time, as below;
//   - /ok with the body "ok" at the lowest cost;
//   - a request of content type application/grpc with its body and the trailer grpc-status 0;
//   - everything else with an Echo of the request, and status 200 or that of ?status=N.
type Upstream struct {
	// Address is HOST:PORT.
	Address string

	server *http.Server
	served chan error

	mu sync.Mutex
	// total and byPath count requests since the start or Reset.
	total  int
	byPath map[string]int
}

// Echo is a request as the upstream received it.
type Echo struct {
	Method  string      `json:"method"`
	Path    string      `json:"path"` // with the query
	Host    string      `json:"host"`
	Proto   string      `json:"proto"` // such as "HTTP/1.1"
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"`
}

// RunUpstream starts an upstream for a test, and stops it at the end of the test.
func RunUpstream(t testing.TB) *Upstream {
	t.Helper()
	u, err := StartUpstream()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := u.Stop(); err != nil {
			t.Error(err)
		}
	})
	return u
}

// StartUpstream starts an upstream on a free loopback port. The caller must stop it.
func StartUpstream() (*Upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting an upstream: %w", err)
	}
	u := &Upstream{Address: listener.Addr().String(), served: make(chan error, 1), byPath: make(map[string]int)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	u.server = &http.Server{Handler: http.HandlerFunc(u.serve), Protocols: protocols, ReadHeaderTimeout: WaitLimit}
	go func() { u.served <- u.server.Serve(listener) }()
	return u, nil
}

// Stop stops the server and closes its connections.
func (u *Upstream) Stop() error {
	if err := u.server.Close(); err != nil {
		return fmt.Errorf("stopping the upstream: %w", err)
	}
	if err := <-u.served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("the upstream ended unexpectedly: %w", err)
	}
	return nil
}

// Count returns the number of requests since the start or the last Reset.
func (u *Upstream) Count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.total
}

// CountOf returns the number of these requests for a path, without the query string.
func (u *Upstream) CountOf(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byPath[path]
}

// Reset resets the counts.
func (u *Upstream) Reset() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.total = 0
	clear(u.byPath)
}

func (u *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.total++
	u.byPath[r.URL.Path]++
	u.mu.Unlock()
	switch {
	case r.URL.Path == "/ok":
		_, _ = io.WriteString(w, "ok")
	case r.Header.Get("Content-Type") == grpcType:
		serveGRPC(w, r)
	case r.URL.Path == "/stream":
		serveStream(w, r)
	case r.URL.Path == "/slow":
		if pause(r.Context(), r.FormValue("for")) {
			serveEcho(w, r)
		}
	default:
		serveEcho(w, r)
	}
}

func serveEcho(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	status := http.StatusOK
	if wanted, err := strconv.Atoi(r.URL.Query().Get("status")); err == nil && wanted >= 200 && wanted <= 599 {
		status = wanted
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that has disconnected is not an error.
	_ = json.NewEncoder(w).Encode(Echo{r.Method, r.URL.RequestURI(), r.Host, r.Proto, r.Header, string(body)})
}

func serveStream(w http.ResponseWriter, r *http.Request) {
	chunks, err := strconv.Atoi(r.FormValue("chunks"))
	if err != nil {
		http.Error(w, "chunks: "+err.Error(), http.StatusBadRequest)
		return
	}
	for i := range chunks {
		if _, err := fmt.Fprintf(w, "chunk %d\n", i); err != nil {
			return
		}
		if err := http.NewResponseController(w).Flush(); err != nil || !pause(r.Context(), r.FormValue("gap")) {
			return
		}
	}
}

// serveGRPC responds with the message of the request, as a gRPC server.
func serveGRPC(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", grpcType)
	w.Header().Set("Trailer", "Grpc-Status")
	_, _ = w.Write(body)
	w.Header().Set("Grpc-Status", "0")
}

// pause waits for a duration such as "200ms", or not at all if it is empty or invalid. It returns
// false if the client has disconnected.
func pause(ctx context.Context, text string) bool {
	duration, err := time.ParseDuration(text)
	if err != nil || duration <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
