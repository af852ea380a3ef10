package envoy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// oracleSideHeader says which listener a request came through.
const oracleSideHeader = "X-Oracle-Side"

// oracleUpstream is the upstream of both filters. It records each request, and
// responds with headers, a body and trailers that must arrive unchanged:
//
//   - ?status=N answers with that status;
//   - ?slow=D waits for that time first, or until the client has disconnected;
//   - ?lines=N answers with N lines, each flushed, 100 ms apart.
type oracleUpstream struct {
	address string

	mu sync.Mutex
	// arrivals are the requests seen, by side and path.
	arrivals map[[2]string][]*oracleArrival
}

// oracleArrival is what the upstream saw of one request.
type oracleArrival struct {
	method, proto   string
	header, trailer http.Header
	// body is its size and hash; cut means that it was incomplete.
	body string
	cut  bool
	// gone means that the client disconnected before the response.
	gone bool
	// done means that the request has been handled.
	done bool
}

func oracleRunUpstream(t *testing.T) *oracleUpstream {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &oracleUpstream{address: listener.Addr().String(), arrivals: make(map[[2]string][]*oracleArrival)}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: http.HandlerFunc(u.serve), Protocols: protocols, ReadHeaderTimeout: envoytest.WaitLimit}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the upstream ended unexpectedly: %v", err)
		}
	})
	return u
}

func (u *oracleUpstream) serve(w http.ResponseWriter, r *http.Request) {
	arrival := &oracleArrival{method: r.Method, proto: r.Proto, header: r.Header.Clone()}
	key := [2]string{r.Header.Get(oracleSideHeader), r.URL.Path}
	u.mu.Lock()
	u.arrivals[key] = append(u.arrivals[key], arrival)
	u.mu.Unlock()

	hash := sha256.New()
	size, err := io.Copy(hash, r.Body)
	gone := false
	if wait, slow := time.ParseDuration(r.FormValue("slow")); slow == nil {
		select {
		case <-r.Context().Done():
			gone = true
		case <-time.After(wait):
		}
	}
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		arrival.body, arrival.cut, arrival.gone = fmt.Sprintf("%d bytes, %x", size, hash.Sum(nil)[:4]), err != nil, gone
		arrival.trailer, arrival.done = r.Trailer.Clone(), true
	}()
	if err == nil && !gone {
		oracleAnswer(w, r)
	}
}

func oracleAnswer(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header["Set-Cookie"] = []string{"a=1; Path=/", "b=2"}
	header.Set("X-Upstream", "untouched")
	header.Set("Trailer", "X-Last, Grpc-Status")
	contentType := "text/x-oracle"
	if given := r.Header.Get("Content-Type"); given == "application/grpc" {
		contentType = given
	}
	header.Set("Content-Type", contentType)
	status, err := strconv.Atoi(r.FormValue("status"))
	if err != nil {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	lines, _ := strconv.Atoi(r.FormValue("lines"))
	for i := range lines {
		_, _ = fmt.Fprintf(w, "line %d\n", i)
		_ = http.NewResponseController(w).Flush()
		time.Sleep(100 * time.Millisecond) // the response is as slow as the case says
	}
	_, _ = io.WriteString(w, "upstream\n")
	header.Set("X-Last", "trailer")
	header.Set("Grpc-Status", "0")
}

// begun returns the number of requests seen for a side and path.
func (u *oracleUpstream) begun(side, path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.arrivals[[2]string{side, path}])
}

// seen returns the requests for a side and path, once all of them have been handled.
func (u *oracleUpstream) seen(side, path string) ([]oracleArrival, error) {
	var seen []oracleArrival
	err := testtool.Poll(testtool.WaitLimit, func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		seen = nil
		unfinished := 0
		for _, arrival := range u.arrivals[[2]string{side, path}] {
			if !arrival.done {
				unfinished++
			}
			seen = append(seen, *arrival)
		}
		if unfinished > 0 {
			return fmt.Errorf("the upstream is still busy with %d requests for %s", unfinished, path)
		}
		return nil
	})
	return seen, err
}
