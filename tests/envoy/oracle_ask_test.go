package envoy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/envoytest"
	"github.com/boifi/hfi/internal/testtool"
)

// oracleRequest is the request that a case's client sends.
type oracleRequest struct {
	// method is GET if empty; path is appended to the case's prefix.
	method, path string
	header       http.Header
	// http2 uses HTTP/2 to Envoy, and from there to the upstream.
	http2 bool
	// body is sent once, with a Content-Length. If pieces is set, it is sent that many
	//
	// times with a pause before each, and without a Content-Length.
	body    string
	pieces  int
	trailer http.Header
}

// oraclePieceGap is the time between two pieces of a body.
const oraclePieceGap = 60 * time.Millisecond

// oracleSide is one case run with one of the two filters.
type oracleSide struct {
	world *oracleWorld
	c     *oracleCase
	// name is the listener's name: native or ours.
	name string
	// facts has everything observed, as text by name. A missing fact equals an empty
	// one.
	facts map[string]string
	// elapsed has the time from each request to the headers of its response.
	elapsed []time.Duration
	// requests is the number of requests sent below the case's prefix.
	requests int
}

func (s *oracleSide) note(fact string, value any) { s.facts[fact] = fmt.Sprint(value) }

// path returns the request's :path.
func (s *oracleSide) path() string { return "/" + s.c.name + "/" + s.c.request.path }

func (s *oracleSide) base() string { return s.world.envoy.ListenerURL(s.name) }

func (s *oracleSide) client() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!s.c.request.http2)
	protocols.SetUnencryptedHTTP2(s.c.request.http2)
	return &http.Client{
		Transport:     &http.Transport{Protocols: protocols, DisableCompression: true, ExpectContinueTimeout: envoytest.WaitLimit},
		Timeout:       envoytest.WaitLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// request makes the case's request for one side.
func (s *oracleSide) request(ctx context.Context) (*http.Request, error) {
	asked := &s.c.request
	var body io.Reader
	switch {
	case asked.pieces > 0:
		body = &oraclePieces{ctx: ctx, piece: asked.body, left: asked.pieces}
	case asked.body != "":
		body = strings.NewReader(asked.body)
	}
	request, err := http.NewRequestWithContext(ctx, asked.method, s.base()+s.path(), body)
	if err != nil {
		return nil, err
	}
	if asked.trailer != nil {
		request.Trailer, request.ContentLength = asked.trailer.Clone(), -1
	}
	// Only the listeners' ports differ.
	request.Host = "oracle.test"
	for name, values := range asked.header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	request.Header.Set(oracleSideHeader, s.name)
	return request, nil
}

// ask is the script of most cases: one request, and a second one over the same
// connection, which shows the state that the first left it in.
func (s *oracleSide) ask() error {
	c := s.client()
	defer c.CloseIdleConnections()
	continued := 0
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error { continued++; return nil },
	})
	request, err := s.request(ctx)
	if err != nil {
		return err
	}
	s.requests++
	started := time.Now()
	answer, err := c.Do(request)
	if err != nil {
		return err
	}
	s.elapsed = append(s.elapsed, time.Since(started))
	body, err := oracleReadBody(s, answer)
	if err != nil {
		return err
	}
	s.answer(answer, body)
	s.note("1xx", continued)
	return s.next(c)
}

// oracleReadBody reads a response's body, and tells the upstream once it has some of it.
func oracleReadBody(s *oracleSide, answer *http.Response) ([]byte, error) {
	defer answer.Body.Close()
	first := make([]byte, 1)
	n, err := answer.Body.Read(first)
	path, _, _ := strings.Cut(s.path(), "?")
	s.world.upstream.reading(s.name, path)
	body := bytes.NewBuffer(first[:n])
	if err == nil {
		_, err = io.Copy(body, answer.Body)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	return body.Bytes(), nil
}

// answer records a response.
func (s *oracleSide) answer(answer *http.Response, body []byte) {
	s.note("status", answer.StatusCode)
	s.note("protocol", answer.Proto)
	s.note("body", string(body))
	s.note("close", answer.Close)
	s.headers("header ", answer.Header)
	s.headers("trailer ", answer.Trailer)
}

// headers records headers, each as one fact.
func (s *oracleSide) headers(prefix string, header http.Header) {
	for name, values := range header {
		name = strings.ToLower(name)
		if _, varies := oracleVaries[name]; varies {
			values = []string{"(given)"}
		}
		s.note(prefix+name, strings.Join(values, " | "))
	}
}

// next sends a request without a fault over the same connection, if it is still open.
func (s *oracleSide) next(c *http.Client) error {
	reused := false
	ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused },
	})
	request, err := http.NewRequestWithContext(ctx, "GET", s.base()+"/next/"+s.c.name, nil)
	if err != nil {
		return err
	}
	request.Header.Set(oracleSideHeader, s.name)
	answer, err := c.Do(request)
	if err != nil {
		return fmt.Errorf("the next request on the connection: %w", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fmt.Errorf("the next answer on the connection: %w", err)
	}
	s.note("next status", answer.StatusCode)
	s.note("next on the same connection", reused)
	return nil
}

// oracleLog is the format of the access log: the path, then these facts.
var oracleLog = []struct{ fact, format string }{
	{"status", "%RESPONSE_CODE%"}, {"flags", "%RESPONSE_FLAGS%"}, {"details", "%RESPONSE_CODE_DETAILS%"},
	{"received", "%BYTES_RECEIVED%"}, {"sent", "%BYTES_SENT%"}, {"protocol", "%PROTOCOL%"},
	{"upstream", "%UPSTREAM_CLUSTER%"}, {"attempts", "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"},
	{"grpc", "%GRPC_STATUS_NUMBER%"}, {"mark", "%FILTER_STATE(wasm.hfi_fault:PLAIN)%"},
}

func oracleLogFormat() string {
	format := "%REQ(:PATH)%"
	for _, field := range oracleLog {
		format += "\t" + field.format
	}
	return format
}

// collect records what Envoy's access log and the upstream have about the case,
// once the log is complete. A stream is logged when it has ended.
func (s *oracleSide) collect(limit time.Duration) error {
	var lines [][]string
	err := testtool.Poll(limit, func() error {
		lines = nil
		whole, _, _ := cutLast(s.world.envoy.AccessLog(s.name))
		for line := range strings.Lines(whole) {
			if fields := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); fields[0] == s.path() {
				lines = append(lines, fields[1:])
			}
		}
		if len(lines) < s.requests {
			return fmt.Errorf("%s: the access log has %d of %d requests", s.name, len(lines), s.requests)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, line := range lines {
		for j, field := range oracleLog {
			if field.fact == "flags" {
				for flag := range strings.SplitSeq(strings.Trim(line[j], "-"), ",") {
					if flag != "" {
						s.note(fmt.Sprintf("log %d flag %s", i, flag), "set")
					}
				}
				continue
			}
			s.note(fmt.Sprintf("log %d %s", i, field.fact), strings.Trim(line[j], "-"))
		}
	}
	path, _, _ := strings.Cut(s.path(), "?")
	arrivals, err := s.world.upstream.seen(s.name, path)
	if err != nil {
		return err
	}
	s.note("upstream requests", len(arrivals))
	for i, arrival := range arrivals {
		prefix := "upstream " + strconv.Itoa(i) + " "
		s.note(prefix+"request", arrival.method+" "+arrival.proto)
		s.note(prefix+"body", arrival.body)
		s.note(prefix+"cut", arrival.cut)
		s.note(prefix+"gone", arrival.gone)
		s.note(prefix+"read early", arrival.early)
		s.headers(prefix+"header ", arrival.header)
		s.headers(prefix+"trailer ", arrival.trailer)
	}
	return nil
}

// cutLast cuts a text after its last complete line.
func cutLast(text string) (whole, rest string, found bool) {
	end := strings.LastIndexByte(text, '\n') + 1
	return text[:end], text[end:], end > 0
}

// oraclePieces is a body that arrives in pieces, with pauses.
type oraclePieces struct {
	ctx   context.Context
	piece string
	left  int
}

func (p *oraclePieces) Read(to []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-p.ctx.Done():
		return 0, p.ctx.Err()
	case <-time.After(oraclePieceGap):
	}
	p.left--
	return copy(to, p.piece), nil
}
