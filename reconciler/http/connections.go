package http

import (
	"container/list"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/api"
)

// Bounds of the connections, of those that a process can have open by its
// limit of file descriptors.
const (
	// mostConnections bounds them where there are more descriptors.
	mostConnections = 200_000
	// leastReserve descriptors, and at least a quarter of all, are left for git,
	// etcd, the other replicas and files.
	leastReserve = 256
	// leastFree connections, and at least an eighth of all, are left by clients
	// that wait for everybody else.
	leastFree = 8
	// refusals bounds the clients that get a 503 at the same time, and refusalTime
	// the time for each; the connections of others are only closed.
	refusals    = 16
	refusalTime = time.Second
	// mostWaitingOnOne requests may wait on one connection, by HTTP/2. The
	// filters of one Envoy worker share a connection, and are few.
	mostWaitingOnOne = 64
	// mostStreams is how many requests a client may have on one connection, by
	// HTTP/2: a proxy opens another one rather than be refused most waits.
	mostStreams = mostWaitingOnOne + leastFree
)

// DefaultMaxConnections is derived from this process's limit of descriptors.
func DefaultMaxConnections() int {
	files := min(fileLimit(), 2*mostConnections)
	return max(min(files-max(leastReserve, files/4), mostConnections), 2*leastFree)
}

// limitedListener accepts at most so many connections. At the limit a new one
// takes the place of the one that has been idle for longest; if none is idle,
// it is refused.
type limitedListener struct {
	net.Listener
	max     int
	refused func()
	refuse  chan struct{}

	mu sync.Mutex
	// open has the place in idle of each connection, or nil.
	open map[net.Conn]*list.Element
	// idle are connections that wait for a request, the longest idle first.
	idle list.List
}

func newLimitedListener(listener net.Listener, most int, refused func()) *limitedListener {
	return &limitedListener{Listener: listener, max: most, refused: refused, refuse: make(chan struct{}, refusals), open: map[net.Conn]*list.Element{}}
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		connection, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.add(connection) {
			return connection, nil
		}
		l.refused()
		l.reject(connection)
	}
}

func (l *limitedListener) add(connection net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= l.max {
		first := l.idle.Front()
		if first == nil {
			return false
		}
		longest := first.Value.(net.Conn)
		l.remove(longest)
		_ = longest.Close()
	}
	l.open[connection] = l.idle.PushBack(connection)
	return true
}

func (l *limitedListener) remove(connection net.Conn) {
	if place := l.open[connection]; place != nil {
		l.idle.Remove(place)
	}
	delete(l.open, connection)
}

// count is the number of open connections.
func (l *limitedListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// state is an http.Server's ConnState.
func (l *limitedListener) state(connection net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	place, known := l.open[connection]
	switch {
	case !known:
	case state == http.StateClosed || state == http.StateHijacked:
		l.remove(connection)
	case state == http.StateActive && place != nil:
		l.idle.Remove(place)
		l.open[connection] = nil
	case state == http.StateIdle && place == nil:
		l.open[connection] = l.idle.PushBack(connection)
	}
}

// reject answers a client with a 503, unless too many are being rejected at the
// moment, and closes its connection.
func (l *limitedListener) reject(connection net.Conn) {
	select {
	case l.refuse <- struct{}{}:
	default:
		_ = connection.Close()
		return
	}
	go func() {
		defer func() { <-l.refuse }()
		defer connection.Close()
		_ = connection.SetDeadline(time.Now().Add(refusalTime))
		if _, err := io.WriteString(connection, noRoom); err != nil {
			return
		}
		// If the request were left unread, closing would reset the connection,
		// and the client might not see the response.
		if tcp, ok := connection.(*net.TCPConn); ok && tcp.CloseWrite() == nil {
			_, _ = io.Copy(io.Discard, io.LimitReader(tcp, DefaultMaxHeaderBytes))
		}
	}()
}

var noRoom = func() string {
	body := `{"error":{"code":"too_many_connections","message":"this replica has as many connections as it allows: try another replica, or later"}}` + "\n"
	return strings.Join([]string{
		"HTTP/1.1 503 Service Unavailable", "Content-Type: " + jsonType, fmt.Sprintf("Content-Length: %d", len(body)), "Cache-Control: no-store",
		"X-Content-Type-Options: nosniff", "Retry-After: 30", "Connection: close", "", body,
	}, "\r\n")
}()

// waitAlone bounds the clients that wait with a connection for each, so that
// others can still connect.
func (s *Server) waitAlone() int { return s.MaxConnections - max(leastFree, s.MaxConnections/8) }

// enterWait counts a client that begins to wait. It fails if as many wait
// already as may, in all or on the client's connection.
func (s *Server) enterWait(w http.ResponseWriter, r *http.Request) (leave func(), err error) {
	on := connectionOf(r)
	if on != nil && on.waiting.Add(1) > mostWaitingOnOne {
		on.waiting.Add(-1)
		return nil, tooManyWaiting("connection")
	}
	alone := r.ProtoMajor < 2 // By HTTP/2 many wait on one connection.
	uncount := func() {
		if on != nil {
			on.waiting.Add(-1)
		}
		if alone {
			s.waitingAlone.Add(-1)
		}
	}
	if alone && s.waitingAlone.Add(1) > int64(s.waitAlone()) || !s.Metrics.enterWait(s.MaxWaiting) {
		uncount()
		if alone {
			w.Header().Set("Connection", "close")
		}
		return nil, tooManyWaiting("replica")
	}
	return func() {
		uncount()
		s.Metrics.leaveWait()
	}, nil
}

// connectionsStatus is the connections of this replica.
func (s *Server) connectionsStatus() api.ConnectionsStatus {
	status := api.ConnectionsStatus{Limit: s.MaxConnections, Waiting: int(s.Metrics.waiting.Load()), Refused: s.refused.Load()}
	if limited := s.limited.Load(); limited != nil {
		status.Open = limited.count()
	}
	return status
}
