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

// Load sends requests over HTTP/1.1 connections that are kept, each with one
// request at a time. It spends little itself, for Envoy to have the processor.
type Load struct {
	// Request is sent again and again.
	Request Request
	// Connections is how many there are; 0 means 8.
	Connections int
	// Requests ends the load after that many, Duration after that time (the
	// requests begun are finished). One must be given; with both, the first ends it.
	Requests int
	Duration time.Duration
	// Rate is how many requests begin in a second over all connections,
	// evenly spaced, as far as there are idle ones; 0 means as many as can be.
	Rate float64
	// Limit bounds one request; 0 means Patience.
	Limit time.Duration
	// Check, if set, sees every answer; its error counts as the request's. It
	// is called by all connections at once, and may not keep the header or the body.
	Check func(status int, header http.Header, body []byte, elapsed time.Duration) error
}

// Report is what became of a load.
type Report struct {
	// Statuses counts the answers by HTTP status.
	Statuses map[int]int
	// Errors counts the requests without a whole answer, and those that Check
	// found fault with; the latter are counted by their status too.
	Errors int
	// Samples are the first few errors.
	Samples []string
	// Latencies are those of the answers, from a request's first byte sent to
	// its answer's last one received, by status, in no order.
	Latencies map[int][]time.Duration
	// Elapsed is how long it all took.
	Elapsed time.Duration
}

// Answers is how many requests got an answer.
func (r *Report) Answers() int {
	sum := 0
	for _, count := range r.Statuses {
		sum += count
	}
	return sum
}

// Quantile is the latency that a share q (0 to 1) of all answers was not above.
func (r *Report) Quantile(q float64) time.Duration {
	return Quantile(r.all(), q)
}

// Slower is how many answers took a time or more.
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

// String is the report in one line, with the first errors.
func (r *Report) String() string {
	return fmt.Sprintf("%d answers in %s (%.0f a second), by status %v, %d errors %q, latency p50 %s, p99 %s, worst %s",
		r.Answers(), r.Elapsed.Round(time.Millisecond), float64(r.Answers())/r.Elapsed.Seconds(), r.Statuses, r.Errors, r.Samples,
		r.Quantile(0.5), r.Quantile(0.99), r.Quantile(1))
}

// maxSamples bounds Report.Samples.
const maxSamples = 5

// Run sends the load and waits until it is done. That the context ends
// cuts requests off; those are counted nowhere, and the error is the context's.
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
	// begun counts the requests that were begun, or would have been but for the end.
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
		run.limit = Patience
	}
	return run, nil
}

// next waits until the next request is due, and tells whether there is one.
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

// work sends requests one after another, over a new connection where the last one broke or was ended.
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

// exchange sends one request and notes its answer. It tells whether the
// connection can be used again.
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

// connection is one kept connection.
type connection struct {
	net    net.Conn
	reader *bufio.Reader
	body   bytes.Buffer
	// forget ends the watch over the context.
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
