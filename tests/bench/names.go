package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Those who make names up: how many connections they have, and how many
// requests are under way on each.
const (
	inventors = 16
	underWay  = 64
)

// invented has a hundred filters wait, while others ask twice each in many
// names that they made up, as a filter does: with the policies that they were
// given. It measures memory and the slowest status, and looks whether the
// filters are known all the time.
func invented(ctx context.Context, c config) (rows []row, err error) {
	_, d, end, err := serving(ctx, 100)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	address := strings.TrimPrefix(d.url, "http://")
	const filters = 100
	for i := range filters {
		waiting := &asker{address: address, waits: "20s"}
		if err := waiting.dial(); err != nil {
			return nil, err
		}
		defer waiting.connection.Close()
		if err := waiting.ask(fmt.Sprint("real-", i), service(i), "demo"); err != nil {
			return nil, err
		}
		go waiting.keepAsking(fmt.Sprint("real-", i), service(i), "demo")
	}
	flooded := make(chan error, inventors)
	for i := range inventors {
		go func() { flooded <- flood(ctx, address, i, c.names/inventors) }()
	}
	var slowest time.Duration
	var most float64
	look := func() error {
		began := time.Now()
		response, _, err := get(ctx, d.url+"/v1/status", nil)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("the status is %s", response.Status)
		}
		slowest = max(slowest, time.Since(began))
		resident, err := d.memory("VmRSS")
		most = max(most, resident)
		return err
	}
	for running := inventors; running > 0; {
		select {
		case err := <-flooded:
			if err != nil {
				return nil, err
			}
			running--
		case <-time.After(100 * time.Millisecond):
			if err := look(); err != nil {
				return nil, err
			}
		}
	}
	if err := look(); err != nil {
		return nil, err
	}
	_, report, err := get(ctx, d.url+"/v1/filters?local=true", nil)
	if err != nil {
		return nil, err
	}
	lost := 0
	for i := range filters {
		if !strings.Contains(string(report), fmt.Sprintf(`"pod":"real-%d"`, i)) {
			lost++
		}
	}
	name := fmt.Sprintf("%d made-up filters, each of which asks twice", c.names)
	return []row{
		{"the daemon's memory during " + name + ", including the embedded etcd", fmt.Sprintf("%.0f MB", most), "< 300 MB", most < 300, true},
		{"the slowest status meanwhile", fmt.Sprintf("%.2f s", slowest.Seconds()), "< 1 s", slowest < time.Second, false},
		{fmt.Sprintf("filters of %d that are not known afterwards", filters), fmt.Sprint(lost), "= 0", lost == 0, true},
	}, nil
}

// asker sends a filter's requests over one connection.
type asker struct {
	address, waits, tag string
	// others is the header with the other VMs of its Envoy, or empty.
	others     string
	connection net.Conn
	reader     *bufio.Reader
}

func (a *asker) dial() (err error) {
	if a.connection, err = net.Dial("tcp", a.address); err == nil {
		a.reader = bufio.NewReader(a.connection)
	}
	return err
}

func (a *asker) request(to io.Writer, name, service, namespace string) error {
	_, err := fmt.Fprintf(to, "GET /v1/policies?service=%s&namespace=%s&wait=%s HTTP/1.1\r\nHost: %s\r\nX-Hfi-Node: sidecar~10.0.0.1~%s.%s\r\nX-Hfi-Pod: %s\r\nX-Hfi-Vm: 1f0e3dad99908345\r\n",
		service, namespace, a.waits, a.address, name, namespace, name)
	if err == nil && a.others != "" {
		_, err = fmt.Fprintf(to, "X-Hfi-Vms: %s\r\n", a.others)
	}
	if err == nil && a.tag != "" {
		_, err = fmt.Fprintf(to, "If-None-Match: %s\r\n", a.tag)
	}
	if err == nil {
		_, err = io.WriteString(to, "\r\n")
	}
	return err
}

func (a *asker) answer() error {
	response, err := http.ReadResponse(a.reader, nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	if tag := response.Header.Get("ETag"); tag != "" {
		a.tag = tag
	}
	return errors.Join(err, response.Body.Close())
}

func (a *asker) ask(name, service, namespace string) error {
	if err := a.request(a.connection, name, service, namespace); err != nil {
		return err
	}
	return a.answer()
}

// keepAsking waits again and again, until the connection is closed.
func (a *asker) keepAsking(name, service, namespace string) {
	for a.ask(name, service, namespace) == nil {
	}
}

// flood asks twice in each name.
func flood(ctx context.Context, address string, number, names int) error {
	a := &asker{address: address, waits: "0"}
	if err := a.dial(); err != nil {
		return err
	}
	defer a.connection.Close()
	defer context.AfterFunc(ctx, func() { a.connection.Close() })()
	// A service without policies: all answers have one tag, and are short.
	if err := a.ask("first", "made-up", "nowhere"); err != nil {
		return err
	}
	tag, to := a.tag, bufio.NewWriter(a.connection)
	for i := 0; i < names && ctx.Err() == nil; i += underWay / 2 {
		for _, a.tag = range []string{"", tag} {
			for j := range underWay / 2 {
				if err := a.request(to, fmt.Sprintf("made-up-%d-%d", number, i+j), "made-up", "nowhere"); err != nil {
					return err
				}
			}
		}
		if err := to.Flush(); err != nil {
			return err
		}
		for range underWay {
			if err := a.answer(); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}
