package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// waitingClients starts waiting clients of a hundred services, changes one
// service's policy, and counts the clients that are woken. It compares the memory
// of a waiting client with that in a plain net/http server whose handler blocks.
func waitingClients(ctx context.Context, c config) (rows []row, err error) {
	r, d, end, err := serving(ctx, 100)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	before, err := d.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	crowd := &crowd{address: strings.TrimPrefix(d.url, "http://")}
	defer crowd.leave()
	for i := range c.clients {
		url := "/v1/policies?namespace=demo&wait=5m&service=" + service(i)
		response, _, err := get(ctx, d.url+url, nil)
		if err != nil {
			return nil, err
		}
		if err := crowd.join(url, response.Header.Get("ETag")); err != nil {
			return nil, err
		}
	}
	if err := d.waiting(ctx, c.clients); err != nil {
		return nil, err
	}
	during, err := d.memory("VmRSS")
	if err != nil {
		return nil, err
	}
	hash, err := r.prepare(7, 4242)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := r.move(hash); err != nil {
		return nil, err
	}
	concerned := int64(c.clients / 100)
	if err := until(ctx, time.Minute, "the clients of the changed policy got a response", func() bool { return crowd.answered.Load() >= concerned }); err != nil {
		return nil, err
	}
	last := time.Since(began)
	time.Sleep(2 * time.Second)
	woken := crowd.answered.Load()
	// Close the connections before the next clients start, because the number of open files is limited.
	crowd.leave()

	bare, err := bareServer(ctx, c.clients)
	if err != nil {
		return nil, err
	}
	ours := (during - before) * 1024 / float64(c.clients)
	return []row{
		{fmt.Sprintf("of %d waiting clients of 100 services, woken by a change of one service's policy", c.clients),
			fmt.Sprintf("%d (the last after %d ms)", woken, last.Milliseconds()), fmt.Sprintf("= %d", concerned), woken == concerned, true},
		{"memory of a waiting client, relative to a plain net/http server", fmt.Sprintf("%.2f (%.1f kB, %.1f kB)", ours/bare, ours, bare), "", true, false},
	}, nil
}

var waitingGauge = regexp.MustCompile(`(?m)^hfi_http_waiting_clients (\S+)$`)

// waiting waits until the daemon's metrics show that number of waiting clients.
func (d *daemon) waiting(ctx context.Context, count int) error {
	return until(ctx, time.Minute, "all clients wait", func() bool {
		_, body, err := get(ctx, d.url+"/metrics", nil)
		found := waitingGauge.FindSubmatch(body)
		if err != nil || found == nil {
			return false
		}
		waiting, err := strconv.ParseFloat(string(found[1]), 64)
		return err == nil && int(waiting) >= count
	})
}

// crowd is many connections, each with one pending request. It uses few resources,
// because it runs on the machine that it measures.
type crowd struct {
	address     string
	answered    atomic.Int64
	readers     sync.WaitGroup
	connections []net.Conn
}

func (c *crowd) join(url, tag string) error {
	connection, err := net.Dial("tcp", c.address)
	if err != nil {
		return err
	}
	c.connections = append(c.connections, connection)
	if _, err := fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: %s\r\nIf-None-Match: %s\r\n\r\n", url, c.address, tag); err != nil {
		return err
	}
	c.readers.Go(func() {
		response, err := http.ReadResponse(bufio.NewReaderSize(connection, 512), nil)
		if err == nil {
			response.Body.Close()
			c.answered.Add(1)
		}
	})
	return nil
}

func (c *crowd) leave() {
	for _, connection := range c.connections {
		connection.Close()
	}
	c.readers.Wait()
}

// bareServer returns the memory, in kB, of a client that waits in a handler of
// net/http that does nothing else. The server runs in a separate process, as hfid
// does.
func bareServer(ctx context.Context, clients int) (kilobytes float64, err error) {
	server, err := startBare(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	before, err := memoryOf(server.pid(), "VmRSS")
	if err != nil {
		return 0, err
	}
	crowd := &crowd{address: server.address}
	defer crowd.leave()
	for range clients {
		if err := crowd.join("/", `"none"`); err != nil {
			return 0, err
		}
	}
	time.Sleep(2 * time.Second)
	during, err := memoryOf(server.pid(), "VmRSS")
	return (during - before) * 1024 / float64(clients), err
}
