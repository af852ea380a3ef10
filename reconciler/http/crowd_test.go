package http

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/boifi/hfi/schema"
)

// pipes is a listener whose connections need no file descriptors: ten thousand
// clients and the server would exceed the limit of a process.
type pipes struct {
	incoming chan net.Conn
	closed   chan struct{}
	close    func()
}

func newPipes() *pipes {
	p := &pipes{incoming: make(chan net.Conn), closed: make(chan struct{})}
	p.close = sync.OnceFunc(func() { close(p.closed) })
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case connection := <-p.incoming:
		return connection, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close(); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "pipe"} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.incoming <- server
	return client
}

// crowd is many waiting clients. Client i belongs to service i modulo services.
type crowd struct {
	t       testing.TB
	d       *daemon
	clients []net.Conn
	answers []chan string
}

func gather(t testing.TB, d *daemon, count, services int) *crowd {
	c := &crowd{t: t, d: d}
	// Pipes take no descriptors.
	d.MaxConnections = max(d.MaxConnections, 2*count)
	listener := newPipes()
	served := make(chan error, 1)
	go func() { served <- d.Serve(listener) }()
	t.Cleanup(func() {
		d.shutdown()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	for i := range count {
		connection := listener.dial()
		answers := make(chan string, 1)
		c.clients, c.answers = append(c.clients, connection), append(c.answers, answers)
		go func() {
			defer close(answers)
			reader := bufio.NewReaderSize(connection, 16)
			for {
				response, err := http.ReadResponse(reader, nil)
				if err != nil {
					return
				}
				response.Body.Close()
				answers <- response.Header.Get("ETag")
			}
		}()
		c.wait(i, i%services, "*")
	}
	d.waiting(int64(count))
	return c
}

func (c *crowd) wait(i, service int, tag string) {
	if _, err := fmt.Fprintf(c.clients[i], "GET /v1/policies?service=s%d&namespace=n&wait=600s HTTP/1.1\r\nHost: h\r\nIf-None-Match: %s\r\n\r\n", service, tag); err != nil {
		c.t.Fatalf("client %d: %v", i, err)
	}
}

func (c *crowd) leave() {
	for i, connection := range c.clients {
		connection.Close()
		for range c.answers[i] {
		}
	}
	c.d.empty()
}

// oneEach has one policy for each of so many services.
func oneEach(services int) *schema.Set {
	set := schema.NewSet()
	for i := range services {
		set = set.With([]*schema.Entry{entry(fmt.Sprint("p", i), fmt.Sprint("s", i), "n", 1)}, nil)
	}
	return set
}

// Of ten thousand waiting clients of a hundred services, a change of one
// service's policy wakes the clients of that service only.
func TestChangeWakesOnlyItsClients(t *testing.T) {
	const count, services = 10_000, 100
	d := start(t, nil)
	set := oneEach(services)
	d.serve(stateOf(1, set))
	c := gather(t, d, count, services)
	defer c.leave()
	d.serve(stateOf(2, set.With([]*schema.Entry{entry("p42", "s42", "n", 2)}, nil)))
	for i := 42; i < count; i += services {
		select {
		case tag := <-c.answers[i]:
			if want := schema.NewSet(entry("p42", "s42", "n", 2)).Digest(); tag != `"`+string(want)+`"` {
				t.Fatalf("client %d got %s, want %s", i, tag, want)
			}
		case <-time.After(waitLimit):
			t.Fatalf("client %d got no answer", i)
		}
	}
	d.waiting(count - count/services)
	if got := d.wakeups(); got != count/services {
		t.Errorf("%v clients woke, want %d", got, count/services)
	}
	for i, answers := range c.answers {
		if len(answers) != 0 {
			t.Errorf("client %d got an answer", i)
		}
	}
	// A wildcard policy wakes all others.
	d.serve(stateOf(3, set.With([]*schema.Entry{entry("all", "", "", 1)}, nil)))
	for i, answers := range c.answers {
		if i%services == 42 {
			continue
		}
		select {
		case <-answers:
		case <-time.After(waitLimit):
			t.Fatalf("client %d got no answer", i)
		}
	}
	if got := d.wakeups(); got != count {
		t.Errorf("%v clients woke in all, want %d", got, count)
	}
}
