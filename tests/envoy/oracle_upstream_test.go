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
//   - ?lines=N responds with N lines, each flushed, and sends the rest once the
//     client has read some of them, or after oracleHeld if it does not.
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
	// reading closes read: the client has read some of the response. early means
	// that it had before the last of it was sent.
	reading func()
	read    chan struct{}
	early   bool
}

// oracleHeld is how long the upstream waits before it sends the rest of a response.
const oracleHeld = 10 * time.Second

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
	arrival := &oracleArrival{method: r.Method, proto: r.Proto, header: r.Header.Clone(), read: make(chan struct{})}
	arrival.reading = sync.OnceFunc(func() { close(arrival.read) })
	key := [2]string{r.Header.Get(oracleSideHeader), r.URL.Path}
	u.mu.Lock()
	u.arrivals[key] = append(u.arrivals[key], arrival)
	u.mu.Unlock()

	hash := sha256.New()
	size, err := io.Copy(hash, r.Body)
	gone, early := false, false
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
		arrival.trailer, arrival.done, arrival.early = r.Trailer.Clone(), true, early
	}()
	if err == nil && !gone {
		early = oracleAnswer(w, r, arrival.read)
	}
}

// oracleAnswer responds, and reports whether the client had read some of the
// response before the last of it was sent.
func oracleAnswer(w http.ResponseWriter, r *http.Request, read <-chan struct{}) (early bool) {
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
	}
	if lines > 0 {
		select {
		case <-read:
			early = true
		case <-time.After(oracleHeld):
		case <-r.Context().Done():
		}
	}
	_, _ = io.WriteString(w, "upstream\n")
	header.Set("X-Last", "trailer")
	header.Set("Grpc-Status", "0")
	return early
}

// reading records that the client has read some of the responses for a side and path.
func (u *oracleUpstream) reading(side, path string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, arrival := range u.arrivals[[2]string{side, path}] {
		arrival.reading()
	}
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
