package envoytest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Load sends requests over persistent HTTP/1.1 connections, one request at a time on each. It uses
// little CPU time itself.
type Load struct {
	// Request is the request to send repeatedly.
	Request Request
	// Connections is the number of connections. 0 means 8.
	Connections int
	// Requests ends the load after that number of requests, Duration after that time. Requests in
	// flight are completed. At least one must be set; with both, the first limit reached applies.
	Requests int
	Duration time.Duration
	// Rate is the number of requests per second over all connections, evenly spaced, as far as
	// there are idle connections. 0 means no limit.
	Rate float64
	// Limit is the timeout of a request. 0 means WaitLimit.
	Limit time.Duration
	// Check, if set, checks every response. Its error counts as an error of the request. It is
	// called concurrently, and must not keep the header or the body.
	Check func(status int, header http.Header, body []byte, elapsed time.Duration) error
}

// Report is the result of a load.
type Report struct {
	// Statuses counts the responses by HTTP status.
	Statuses map[int]int
	// Errors counts the requests without a complete response, and those for which Check returned
	// an error. The latter are counted in Statuses too.
	Errors int
	// Samples are the first few errors.
	Samples []string
	// Latencies has the latencies of the responses by status, unordered: from the first byte of the
	// request sent to the last byte of the response received.
	Latencies map[int][]time.Duration
	// Elapsed is the duration of the load.
	Elapsed time.Duration
}

// Answers returns the number of responses.
func (r *Report) Answers() int {
	sum := 0
	for _, count := range r.Statuses {
		sum += count
	}
	return sum
}

// Quantile returns the quantile q (0 to 1) of the latencies of all responses.
func (r *Report) Quantile(q float64) time.Duration {
	return Quantile(r.all(), q)
}

// Slower returns the number of responses that took at least a given time.
func (r *Report) Slower(than time.Duration) int {
	count := 0
	for _, latency := range r.all() {
		if latency >= than {
			count++
		}
	}
	return count
}

func (r *Report) all() []time.Duration {
	var all []time.Duration
	for _, latencies := range r.Latencies {
		all = append(all, latencies...)
	}
	return all
}

// String formats the report in one line, with the first errors.
func (r *Report) String() string {
	return fmt.Sprintf("%d answers in %s (%.0f a second), by status %v, %d errors %q, latency p50 %s, p99 %s, worst %s",
		r.Answers(), r.Elapsed.Round(time.Millisecond), float64(r.Answers())/r.Elapsed.Seconds(), r.Statuses, r.Errors, r.Samples,
		r.Quantile(0.5), r.Quantile(0.99), r.Quantile(1))
}

// maxSamples bounds Report.Samples.
const maxSamples = 5

// Run sends the load and waits until it is complete. If the context is cancelled, Run returns its
// error, and requests in flight are not counted.
func (l Load) Run(ctx context.Context) (*Report, error) {
	run, err := l.prepare(ctx)
	if err != nil {
		return nil, fmt.Errorf("preparing the load: %w", err)
	}
	var group sync.WaitGroup
	parts := make([]*Report, run.connections)
	for i := range parts {
		parts[i] = &Report{Statuses: make(map[int]int), Latencies: make(map[int][]time.Duration)}
		group.Go(func() { run.work(ctx, parts[i]) })
	}
	group.Wait()
	whole := &Report{Statuses: make(map[int]int), Latencies: make(map[int][]time.Duration), Elapsed: time.Since(run.started)}
	for _, part := range parts {
		whole.Errors += part.Errors
		whole.Samples = append(whole.Samples, part.Samples[:min(len(part.Samples), maxSamples-len(whole.Samples))]...)
		for status, count := range part.Statuses {
			whole.Statuses[status] += count
			whole.Latencies[status] = append(whole.Latencies[status], part.Latencies[status]...)
		}
	}
	return whole, ctx.Err()
}

// loadRun is one run of a load.
type loadRun struct {
	Load
	address     string
	bytes       []byte
	request     *http.Request
	connections int
	limit       time.Duration
	started     time.Time
	// begun counts the requests started, including those that the end has prevented.
	begun atomic.Int64
}

func (l Load) prepare(ctx context.Context) (*loadRun, error) {
	if l.Requests <= 0 && l.Duration <= 0 {
		return nil, errors.New("it would not end: neither a number of requests nor a duration is given")
	}
	request, err := http.NewRequestWithContext(ctx, l.Request.Method, l.Request.URL, strings.NewReader(l.Request.Body))
	if err != nil {
		return nil, err
	}
	request.Host = l.Request.Host
	for name, values := range l.Request.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	var text bytes.Buffer
	if err := request.Write(&text); err != nil {
		return nil, err
	}
	run := &loadRun{
		Load: l, address: request.URL.Host, bytes: text.Bytes(), request: request,
		connections: l.Connections, limit: l.Limit, started: time.Now(),
	}
	if run.connections <= 0 {
		run.connections = 8
	}
	if run.limit <= 0 {
		run.limit = WaitLimit
	}
	return run, nil
}

// next waits until the next request is due, and reports whether there is one.
func (r *loadRun) next(ctx context.Context) bool {
	number := r.begun.Add(1) - 1
	if r.Requests > 0 && number >= int64(r.Requests) {
		return false
	}
	if r.Rate > 0 {
		after := time.Duration(float64(number) / r.Rate * float64(time.Second))
		if r.Duration > 0 && after >= r.Duration {
			return false
		}
		if wait := time.Until(r.started.Add(after)); wait > 0 {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
	}
	return ctx.Err() == nil && (r.Duration <= 0 || time.Since(r.started) < r.Duration)
}

// work sends requests one after another. It opens a new connection if the last one was closed.
func (r *loadRun) work(ctx context.Context, report *Report) {
	var connection *connection
	defer func() { connection.close() }()
	for r.next(ctx) {
		if connection == nil {
			opened, err := r.open(ctx)
			if err != nil {
				r.failed(ctx, report, err)
				continue
			}
			connection = opened
		}
		again, err := r.exchange(connection, report)
		if err != nil {
			r.failed(ctx, report, err)
		}
		if !again {
			connection.close()
			connection = nil
		}
	}
}

func (r *loadRun) failed(ctx context.Context, report *Report, err error) {
	if ctx.Err() != nil {
		return
	}
	report.Errors++
	if len(report.Samples) < maxSamples {
		report.Samples = append(report.Samples, err.Error())
	}
}

// exchange sends one request and records the response. It reports whether the connection can be
// used again.
func (r *loadRun) exchange(c *connection, report *Report) (again bool, err error) {
	started := time.Now()
	if err := c.net.SetDeadline(started.Add(r.limit)); err != nil {
		return false, err
	}
	if _, err := c.net.Write(r.bytes); err != nil {
		return false, fmt.Errorf("sending a request: %w", err)
	}
	answer, err := http.ReadResponse(c.reader, r.request)
	if err != nil {
		return false, fmt.Errorf("reading an answer: %w", err)
	}
	c.body.Reset()
	if _, err := io.Copy(&c.body, answer.Body); err != nil {
		return false, fmt.Errorf("reading the body of an answer %d: %w", answer.StatusCode, err)
	}
	elapsed := time.Since(started)
	report.Statuses[answer.StatusCode]++
	report.Latencies[answer.StatusCode] = append(report.Latencies[answer.StatusCode], elapsed)
	if r.Check != nil {
		err = r.Check(answer.StatusCode, answer.Header, c.body.Bytes(), elapsed)
	}
	return !answer.Close, err
}

// connection is a persistent connection.
type connection struct {
	net    net.Conn
	reader *bufio.Reader
	body   bytes.Buffer
	// forget stops watching the context.
	forget func() bool
}

func (r *loadRun) open(ctx context.Context) (*connection, error) {
	dialer := net.Dialer{Timeout: r.limit}
	opened, err := dialer.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return nil, err
	}
	forget := context.AfterFunc(ctx, func() { _ = opened.Close() })
	return &connection{net: opened, reader: bufio.NewReaderSize(opened, 8<<10), forget: forget}, nil
}

func (c *connection) close() {
	if c != nil {
		c.forget()
		_ = c.net.Close()
	}
}
