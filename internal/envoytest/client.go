package envoytest

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// grpcType is the content type by which Envoy knows a gRPC request.
const grpcType = "application/grpc"

// Client sends single requests, by HTTP/1.1 or HTTP/2.
type Client struct{ http *http.Client }

// NewClient makes a client. It keeps connections; Close ends those that are idle.
func NewClient(http2 bool) *Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &Client{&http.Client{
		Transport: &http.Transport{Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 1000},
		Timeout:   Patience,
		// A redirect is an answer like any other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends the connections that are idle.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one request. The zero value of Method is GET.
type Request struct {
	Method, URL string
	// Host overrides the URL's, for a request to a virtual host.
	Host   string
	Header http.Header
	Body   string
}

// Response is all of an answer.
type Response struct {
	Status int
	// Proto is such as "HTTP/2.0".
	Proto           string
	Header, Trailer http.Header
	Body            string
	// Elapsed is from the request's start to the answer's headers, Total to its end.
	Elapsed, Total time.Duration
}

// Do sends a request and reads the answer to its end. That the context ends
// meanwhile is how a client hangs up.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	request, err := http.NewRequestWithContext(ctx, r.Method, r.URL, strings.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	request.Host = r.Host
	for name, values := range r.Header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	started := time.Now()
	answer, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	elapsed := time.Since(started)
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: reading the answer: %w", request.Method, r.URL, err)
	}
	return &Response{
		Status: answer.StatusCode, Proto: answer.Proto, Header: answer.Header, Trailer: answer.Trailer, Body: string(body),
		Elapsed: elapsed, Total: time.Since(started),
	}, nil
}

// Get is Do with nothing but a URL.
func (c *Client) Get(ctx context.Context, url string) (*Response, error) {
	return c.Do(ctx, Request{URL: url})
}

// GRPC sends a call with one message, as a gRPC client would; the client must speak HTTP/2.
func (c *Client) GRPC(ctx context.Context, url, message string, header http.Header) (*Response, error) {
	header = header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	header.Set("Content-Type", grpcType)
	header.Set("Te", "trailers")
	// A message's frame: uncompressed, its length, itself.
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return c.Do(ctx, Request{Method: http.MethodPost, URL: url, Header: header, Body: string(frame) + message})
}

// GRPCStatus is the call's status and message: from the trailers, or from the
// headers where the answer has nothing else. Empty means that it has none.
func (r *Response) GRPCStatus() (status, message string) {
	from := r.Trailer
	if from.Get("Grpc-Status") == "" {
		from = r.Header
	}
	return from.Get("Grpc-Status"), from.Get("Grpc-Message")
}
