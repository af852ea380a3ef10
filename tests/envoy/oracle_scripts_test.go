package envoy

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
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// oracleDisconnects are clients that disconnect. They run one after the other, so that
// the filters' gauges count nothing else. In each the delay is far longer than the
// limit for the access log and for the filter to release the request: a filter that
// keeps it until the delay's end fails.
var oracleDisconnects = []oracleCase{
	{name: "hangup", fault: oracleDelay(time.Minute), script: (*oracleSide).disconnect, limit: 20 * time.Second},
	{name: "hangup-post", fault: oracleDelay(time.Minute), request: oraclePost, script: (*oracleSide).disconnect, limit: 20 * time.Second},
	{name: "hangup-upload", fault: oracleDelay(time.Minute), request: oracleEndless, script: (*oracleSide).disconnect, limit: 20 * time.Second, races: oracleUploadRaces},
	{name: "hangup-h2", fault: oracleDelay(time.Minute), request: oracleH2, script: (*oracleSide).disconnect, limit: 20 * time.Second},
	{name: "hangup-h2-upload", fault: oracleDelay(time.Minute), request: oracleEndless.overHTTP2(), script: (*oracleSide).disconnect, limit: 20 * time.Second, races: oracleUploadRaces},
	{name: "hangup-grpc", fault: oracleDelay(time.Minute), request: oracleGRPC, script: (*oracleSide).disconnect, limit: 20 * time.Second},
	{name: "hangup-later", fault: oracleDelay(oracleWait), request: oracleRequest{path: "?slow=1m"}, script: (*oracleSide).disconnectLater, limit: 20 * time.Second},
	{name: "hangup-h2-later", fault: oracleDelay(oracleWait), request: oracleH2.to("?slow=1m"), script: (*oracleSide).disconnectLater, limit: 20 * time.Second},
}

// oracleEndless is an upload that ends only when its client disconnects.
var oracleEndless = oracleRequest{method: "POST", body: "piece", pieces: 1 << 30}

// disconnect ends the connection in the middle of the delay.
func (s *oracleSide) disconnect() error {
	return s.cutOff(func(ctx context.Context) error { return s.holds(ctx, 1, envoytest.WaitLimit) })
}

// holds waits until the metric of the side's filter shows that many delayed requests.
func (s *oracleSide) holds(ctx context.Context, requests float64, limit time.Duration) error {
	gauge := map[string]string{"native": "envoy_http_fault_active_faults", "ours": "hfi_paused_streams"}[s.name]
	what := fmt.Sprintf("%s is %g", gauge, requests)
	_, err := s.world.envoy.WaitStats(what, limit, func(stats envoytest.Stats) bool {
		return stats.Has(gauge) && stats.Value(gauge) == requests || ctx.Err() != nil
	})
	return err
}

// disconnectLater ends the connection while the upstream works on the response.
func (s *oracleSide) disconnectLater() error {
	path, _, _ := strings.Cut(s.path(), "?")
	return s.cutOff(func(ctx context.Context) error {
		err := testtool.Poll(testtool.WaitLimit, func() error {
			if s.world.upstream.begun(s.name, path) == 0 && ctx.Err() == nil {
				return errors.New("the request did not reach the upstream")
			}
			return nil
		})
		return errors.Join(err, ctx.Err())
	})
}

// cutOff sends the request, waits for a condition, and disconnects.
func (s *oracleSide) cutOff(moment func(context.Context) error) error {
	c := s.client()
	defer c.CloseIdleConnections()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	request, err := s.request(ctx)
	if err != nil {
		return err
	}
	s.requests++
	ended := make(chan error, 1)
	go func() {
		answer, err := c.Do(request)
		if err == nil {
			answer.Body.Close()
			err = fmt.Errorf("there was a response %d before that", answer.StatusCode)
		} else if ctx.Err() != nil {
			err = nil
		}
		ended <- err
	}()
	err = moment(ctx)
	cancel()
	if err := errors.Join(err, <-ended); err != nil {
		return err
	}
	return s.holds(context.Background(), 0, s.c.limit)
}

// dial opens a plain TCP connection, for what an HTTP client would not do.
func (s *oracleSide) dial() (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.base(), "http://"))
	if err != nil {
		return nil, nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(envoytest.WaitLimit)); err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return conn, bufio.NewReader(conn), nil
}

// lines returns the request line and headers of an HTTP/1.1 request.
func (s *oracleSide) lines(method string, more ...string) string {
	s.requests++
	lines := append([]string{method + " " + s.path() + " HTTP/1.1", "Host: oracle.test", oracleSideHeader + ": " + s.name}, more...)
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// read reads and records a response from a plain connection.
func (s *oracleSide) read(reader *bufio.Reader, number int, method string) error {
	answer, err := http.ReadResponse(reader, &http.Request{Method: method})
	if err != nil {
		return fmt.Errorf("answer %d: %w", number, err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return fmt.Errorf("answer %d: %w", number, err)
	}
	s.note(fmt.Sprintf("answer %d", number), answer.StatusCode)
	s.answer(answer, body)
	return nil
}

// askRaw sends a complete body, even if there is a response before its end, and
// then checks whether Envoy keeps the connection open.
func (s *oracleSide) askRaw() error {
	body := s.c.request.body
	return s.upload(body, len(body))
}

// askHalf announces a body and sends half of it.
func (s *oracleSide) askHalf() error { return s.upload("half", 8) }

func (s *oracleSide) upload(body string, length int) error {
	conn, reader, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		// Envoy may respond and close before it has read everything; the response shows that.
		_, _ = io.Copy(conn, io.MultiReader(strings.NewReader(s.lines("POST", fmt.Sprintf("Content-Length: %d", length))), strings.NewReader(body)))
	}()
	defer func() { _ = conn.Close(); <-sent }()
	started := time.Now()
	if err := s.read(reader, 0, "POST"); err != nil {
		return err
	}
	s.elapsed = append(s.elapsed, time.Since(started))
	return s.behind(conn, reader, 10*time.Second)
}

// behind records what follows a response on a connection, and whether Envoy closes
// it within a limit. If the response was sent before the request was complete,
// Envoy does so after a second.
func (s *oracleSide) behind(conn net.Conn, reader *bufio.Reader, limit time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	rest, err := io.ReadAll(reader)
	s.note("behind the answer", string(rest))
	var timeout net.Error
	s.note("connection kept", errors.As(err, &timeout) && timeout.Timeout())
	return nil
}

// askBare sends a request and records what follows the response.
func (s *oracleSide) askBare() error {
	conn, reader, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, s.lines("GET")); err != nil {
		return err
	}
	if err := s.read(reader, 0, "GET"); err != nil {
		return err
	}
	return s.behind(conn, reader, 500*time.Millisecond)
}

// askPipelined sends two requests before it reads the first response.
func (s *oracleSide) askPipelined() error {
	conn, reader, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	var both bytes.Buffer
	both.WriteString(s.lines("GET"))
	both.WriteString(s.lines("GET", "X-Second: yes"))
	started := time.Now()
	if _, err := conn.Write(both.Bytes()); err != nil {
		return err
	}
	for i := range 2 {
		if err := s.read(reader, i, "GET"); err != nil {
			return err
		}
		// The second waits for the first, and then for its own delay.
		s.elapsed = append(s.elapsed, time.Since(started)/time.Duration(i+1))
	}
	return nil
}
