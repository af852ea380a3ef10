package etcd

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// link forwards connections to etcd, and can be cut, so that etcd changes
// without its client.
type link struct {
	// endpoint is the URL to use in place of etcd's.
	endpoint string

	// delay is by how much each request is delayed.
	delay atomic.Int64
	// received are the bytes that came from etcd.
	received atomic.Int64

	mu sync.Mutex
	// cut says that new connections end at once; open are the present ones.
	cut  bool
	open map[net.Conn]bool
}

// newLink forwards to an endpoint until the test ends.
func newLink(t testing.TB, endpoint string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{endpoint: "http://" + listener.Addr().String(), open: map[net.Conn]bool{}}
	target := strings.TrimPrefix(endpoint, "http://")
	var work sync.WaitGroup
	work.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() { l.pass(near, target) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
		work.Wait()
	})
	return l
}

func (l *link) pass(near net.Conn, target string) {
	defer near.Close()
	far, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer far.Close()
	l.mu.Lock()
	if l.cut {
		l.mu.Unlock()
		return
	}
	l.open[near], l.open[far] = true, true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.open, near)
		delete(l.open, far)
	}()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		go func() {
			if way[1] == near {
				l.copySlowly(far, near)
			} else {
				_, _ = io.Copy(io.MultiWriter(way[0], countingWriter{&l.received}), way[1])
			}
			ended <- struct{}{}
		}()
	}
	<-ended
	near.Close()
	far.Close()
	<-ended
}

// Cut ends every connection, and each new one at once until Restore.
func (l *link) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for connection := range l.open {
		connection.Close()
	}
}

// Restore forwards new connections again.
func (l *link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

// copySlowly delivers each piece after the delay, and those after it on time.
func (l *link) copySlowly(far io.Writer, near io.Reader) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1000)
	go func() {
		defer close(pieces)
		buffer := make([]byte, 64<<10)
		for {
			n, err := near.Read(buffer)
			if n > 0 {
				pieces <- piece{time.Now().Add(time.Duration(l.delay.Load())), bytes.Clone(buffer[:n])}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := far.Write(p.data); err != nil {
			break
		}
	}
	for range pieces {
		continue // The reader ends with its connection.
	}
}

// countingWriter counts the bytes written to it.
type countingWriter struct{ bytes *atomic.Int64 }

func (w countingWriter) Write(p []byte) (int, error) {
	w.bytes.Add(int64(len(p)))
	return len(p), nil
}
