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
// caller name a proxy, though. The one registered here dials as usual, and
// closes the connection when the operation's context ends.

// dialScheme is the scheme of the proxy's URL. The host is the operation's number.
const dialScheme = "hfi-operation"

// dialing has the contexts of the operations that may dial.
var dialing struct {
	mu    sync.Mutex
	last  int
	under map[string]context.Context
}

func init() {
	proxy.RegisterDialerType(dialScheme, func(u *url.URL, _ proxy.Dialer) (proxy.Dialer, error) {
		dialing.mu.Lock()
		defer dialing.mu.Unlock()
		ctx := dialing.under[u.Host]
		if ctx == nil {
			return nil, fmt.Errorf("operation %s has ended", u.Host)
		}
		return operationDialer{ctx}, nil
	})
}

// boundDialing returns a proxy for connections that close when ctx ends. The
// caller must end ctx, and call release after the last dial.
func boundDialing(ctx context.Context) (options transport.ProxyOptions, release func()) {
	dialing.mu.Lock()
	defer dialing.mu.Unlock()
	dialing.last++
	name := strconv.Itoa(dialing.last)
	if dialing.under == nil {
		dialing.under = map[string]context.Context{}
	}
	dialing.under[name] = ctx
	return transport.ProxyOptions{URL: dialScheme + "://" + name}, func() {
		dialing.mu.Lock()
		defer dialing.mu.Unlock()
		delete(dialing.under, name)
	}
}

// operationDialer dials for one operation.
type operationDialer struct {
	ctx context.Context
}

func (d operationDialer) Dial(network, address string) (net.Conn, error) {
	// Use the proxy that the environment names, if any.
	connection, err := proxy.Dial(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(d.ctx, func() { _ = connection.Close() })
	return connection, nil
}

func (d operationDialer) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	return d.Dial(network, address)
}
