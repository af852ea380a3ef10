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

// grpcType is the content type of gRPC requests.
const grpcType = "application/grpc"

// Client sends single requests, by HTTP/1.1 or HTTP/2.
type Client struct{ http *http.Client }

// NewClient returns a client, which keeps its connections. Close closes idle ones.
func NewClient(http2 bool) *Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!http2)
	protocols.SetUnencryptedHTTP2(http2)
	return &Client{&http.Client{
		Transport: &http.Transport{Protocols: protocols, DisableCompression: true, MaxIdleConnsPerHost: 1000},
		Timeout:   WaitLimit,
		// Do not follow redirects.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one request. The zero value of Method is GET.
type Request struct {
	Method, URL string
	// Host overrides the host of the URL, for a request to a virtual host.
	Host   string
	Header http.Header
	Body   string
}

// Response is a complete response.
type Response struct {
	Status int
	// Proto is such as "HTTP/2.0".
	Proto           string
	Header, Trailer http.Header
	Body            string
	// Elapsed is the time from the start of the request to the response headers, Total
	// that to the end of the response.
	Elapsed, Total time.Duration
}

// Do sends a request and reads the complete response. Cancelling the context closes the
// connection.
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

// Get sends a GET request.
func (c *Client) Get(ctx context.Context, url string) (*Response, error) {
	return c.Do(ctx, Request{URL: url})
}

// GRPC makes a gRPC call with one message. The client must use HTTP/2.
func (c *Client) GRPC(ctx context.Context, url, message string, header http.Header) (*Response, error) {
	header = header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	header.Set("Content-Type", grpcType)
	header.Set("Te", "trailers")
	// The frame of a message: a zero byte for uncompressed, the length, the message.
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return c.Do(ctx, Request{Method: http.MethodPost, URL: url, Header: header, Body: string(frame) + message})
}

// GRPCStatus returns the status and message of a call, from the trailers or, in a
// response without trailers, from the headers. They are empty if there are none.
func (r *Response) GRPCStatus() (status, message string) {
	from := r.Trailer
	if from.Get("Grpc-Status") == "" {
		from = r.Header
	}
	return from.Get("Grpc-Status"), from.Get("Grpc-Message")
}
