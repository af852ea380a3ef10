package git

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/net/proxy"
)

// go-git opens SSH connections without the context: a server that accepts one
// and sends nothing would hold it and its goroutines forever. go-git lets the
// caller name a proxy, though. The one registered here dials as usual, bounds
// what the server sends, and closes the connection when the operation's context ends.

// dialScheme is the scheme of the proxy's URL. The host is the operation's number.
const dialScheme = "hfi-operation"

// dialing has the operations that may dial.
var dialing struct {
	mu    sync.Mutex
	last  int
	under map[string]operationDialer
}

func init() {
	proxy.RegisterDialerType(dialScheme, func(u *url.URL, _ proxy.Dialer) (proxy.Dialer, error) {
		dialing.mu.Lock()
		defer dialing.mu.Unlock()
		dialer, running := dialing.under[u.Host]
		if !running {
			return nil, fmt.Errorf("operation %s has ended", u.Host)
		}
		return dialer, nil
	})
}

// boundDialing returns a proxy for an operation's connections, which close when
// ctx ends. The caller must end ctx, and call release after the last dial.
func boundDialing(ctx context.Context, o *operation) (options transport.ProxyOptions, release func()) {
	dialing.mu.Lock()
	defer dialing.mu.Unlock()
	dialing.last++
	name := strconv.Itoa(dialing.last)
	if dialing.under == nil {
		dialing.under = map[string]operationDialer{}
	}
	dialing.under[name] = operationDialer{ctx, o}
	return transport.ProxyOptions{URL: dialScheme + "://" + name}, func() {
		dialing.mu.Lock()
		defer dialing.mu.Unlock()
		delete(dialing.under, name)
	}
}

// operationDialer dials for one operation.
type operationDialer struct {
	ctx       context.Context
	operation *operation
}

func (d operationDialer) Dial(network, address string) (net.Conn, error) {
	// Use the proxy that the environment names, if any.
	connection, err := proxy.Dial(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { _ = connection.Close() })
	return &boundConnection{connection, d.operation}, nil
}

func (d operationDialer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	return d.Dial(network, address)
}

// boundConnection fails once the server has sent more than its operation reads.
type boundConnection struct {
	net.Conn
	operation *operation
}

func (c *boundConnection) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if problem := c.operation.received(int64(n)); problem != nil {
		return 0, problem
	}
	return n, err
}
