package git

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"github.com/boifi/hfi/reconciler"
)

const (
	// defaultPause is the pause after a 429 without Retry-After, and maxPause
	// bounds what Retry-After may ask for. With another status, of a server that
	// is down or refuses, the bound is maxOutagePause: neither a webhook nor a
	// manual trigger can end the pause.
	defaultPause   = 30 * time.Second
	maxPause       = time.Hour
	maxOutagePause = 5 * time.Minute
	// maxExcerpt bounds what a message quotes of a server's response, in bytes.
	maxExcerpt = 300
	// maxErrorBody bounds what is read of an error's response, in bytes.
	maxErrorBody = 64 << 10
)

// httpTransport uses the HTTP client of the operation that the credentials are of.
type httpTransport struct{ transport.Transport }

func (t httpTransport) NewUploadPackSession(endpoint *transport.Endpoint, auth transport.AuthMethod) (transport.UploadPackSession, error) {
	if o, ok := auth.(*httpOperation); ok {
		return githttp.NewClient(&http.Client{Transport: o}).NewUploadPackSession(endpoint, o.auth)
	}
	return t.Transport.NewUploadPackSession(endpoint, auth)
}

// httpOperation is an operation on a server over HTTP, with its credentials.
type httpOperation struct {
	*operation
	auth transport.AuthMethod
	next http.RoundTripper
}

func (o *httpOperation) Name() string   { return "http-operation" }
func (o *httpOperation) String() string { return o.Name() }

// RoundTrip implements http.RoundTripper.
func (o *httpOperation) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := o.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode >= http.StatusMultipleChoices {
		// go-git keeps all of it for a message.
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, maxErrorBody), response.Body}
	}
	content := bufio.NewReader(&operationBody{response.Body, request, o})
	if problem := o.source.unusable(request, response, content); problem != nil {
		_ = response.Body.Close()
		return nil, o.note(problem)
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{content, response.Body}
	return response, nil
}

// operationBody records that a server closed the connection mid-response, or sent
// too much.
type operationBody struct {
	io.Reader
	request   *http.Request
	operation *httpOperation
}

func (b *operationBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if problem := b.operation.received(int64(n)); problem != nil {
		return 0, problem
	}
	if err != nil && err != io.EOF && b.request.Context().Err() == nil {
		_ = b.operation.note(fail("Unreachable", reconciler.Retry, "%s closed the connection mid-response: %w", b.operation.source.address.display, err))
	}
	return n, err
}

// passingStatuses are those of servers and proxies that are overloaded, or
// restart. Any other error persists until something is changed.
var passingStatuses = []int{
	http.StatusRequestTimeout, http.StatusTooEarly,
	http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	// Of Cloudflare.
	520, 521, 522, 523, 524, 529, 530,
}

// unusable returns why a response does not come from a git server, or nil.
// Redirects, and the statuses that go-git has errors for, it leaves to go-git.
func (s *Source) unusable(request *http.Request, response *http.Response, content *bufio.Reader) error {
	status := response.StatusCode
	said := func() string {
		return fmt.Sprintf("%d %s%s", status, http.StatusText(status), excerpt(response, content))
	}
	after := response.Header.Get("Retry-After")
	switch {
	case status == http.StatusTooManyRequests, after != "" && status == http.StatusServiceUnavailable:
		return s.pause.begin(s.address.display, status, after)
	case status == http.StatusForbidden && limitedByGitHub(response.Header):
		if after == "" {
			after = untilReset(response.Header)
		}
		return s.pause.begin(s.address.display, status, after)
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusNotFound, status < http.StatusOK:
		return nil
	case status == http.StatusGone:
		return fail("RepositoryMissing", reconciler.Stalled, "there is no repository at %s any more: it returned %s", s.address.display, said())
	case slices.Contains(passingStatuses, status):
		return fail("Unreachable", reconciler.Retry, "%s returned %s", s.address.display, said())
	case status >= http.StatusBadRequest:
		return fail("UnexpectedAnswer", reconciler.Stalled, "%s returned %s: check the URL, and whether a proxy is in between", s.address.display, said())
	case status >= http.StatusMultipleChoices:
		return nil
	}
	from := s.address.display
	if request.Response != nil { // A redirect led here.
		from += ", which redirects to " + request.URL.Host + request.URL.Path + ","
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	switch {
	case kind == "text/html":
		return fail("NotGit", reconciler.Stalled, "%s returned a web page, perhaps a sign-in page, instead of a git response: check the URL, and give a token or password", from)
	case request.Method != http.MethodGet || kind == "application/x-git-upload-pack-advertisement":
		return nil
	case isDumb(content):
		return fail("Unsupported", reconciler.Stalled, "%s serves git's files only (the dumb HTTP protocol): let the server run git http-backend, or give another URL", from)
	}
	return fail("NotGit", reconciler.Stalled, "%s returned the content type %.60q instead of a git response: check the URL", from, kind)
}

// limitedByGitHub says whether an answer 403 is GitHub's to too many requests:
// none remain, or it says when to try again, and how many remain of another kind.
func limitedByGitHub(header http.Header) bool {
	remaining := header.Get("X-RateLimit-Remaining")
	return remaining == "0" || remaining != "" && header.Get("Retry-After") != ""
}

// untilReset is the Retry-After that GitHub's X-RateLimit-Reset, in seconds
// since 1970, amounts to, or empty.
func untilReset(header http.Header) string {
	seconds, err := strconv.ParseInt(header.Get("X-RateLimit-Reset"), 10, 64)
	if err != nil {
		return ""
	}
	return time.Unix(seconds, 0).UTC().Format(http.TimeFormat)
}

// isDumb says whether a response is git's own file of references: lines with a
// hash, a tab and a name, or none.
func isDumb(content *bufio.Reader) bool {
	text, _ := content.Peek(maxExcerpt)
	hash, _, found := bytes.Cut(text, []byte("\t"))
	_, err := hex.DecodeString(string(hash))
	return len(text) == 0 || found && err == nil
}

// excerpt returns the beginning of a response in plain text, with a colon before it.
func excerpt(response *http.Response, content *bufio.Reader) string {
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "text/plain" {
		return ""
	}
	// An error, at the end of the text say, leaves what came before it.
	text, _ := content.Peek(maxExcerpt)
	text, _, _ = bytes.Cut(bytes.TrimSpace(text), []byte("\n"))
	if len(text) == 0 {
		return ""
	}
	return ": " + strings.ToValidUTF8(string(text), "")
}

// pause keeps requests from a server that asked for it.
type pause struct {
	mu    sync.Mutex
	until time.Time
	error error
}

// begin begins a pause, as the header Retry-After has it: a number of seconds
// or a time.
func (p *pause) begin(server string, status int, after string) error {
	now := time.Now()
	until := now.Add(defaultPause)
	if seconds, err := strconv.ParseUint(strings.TrimSpace(after), 10, 32); err == nil {
		until = now.Add(time.Duration(seconds) * time.Second)
	} else if at, err := http.ParseTime(after); err == nil {
		until = at
	}
	latest := now.Add(maxOutagePause)
	if status == http.StatusTooManyRequests {
		latest = now.Add(maxPause)
	}
	if until.After(latest) {
		until = latest
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = until
	reason, problem := "RateLimited", "limits the number of requests"
	if status == http.StatusServiceUnavailable {
		reason, problem = "Unreachable", "is unavailable"
	}
	p.error = fail(reason, reconciler.Retry, "%s %s (status %d); hfid retries after %s", server, problem, status, until.UTC().Format(time.RFC3339))
	return p.error
}

// check returns an error during a pause.
func (p *pause) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Before(p.until) {
		return p.error
	}
	return nil
}

// httpConnections are a source's connections over HTTP. They are reused until
// their certificates change.
type httpConnections struct {
	mu        sync.Mutex
	made      tlsFiles
	transport *http.Transport
}

// tlsFiles are the contents of the files for HTTPS.
type tlsFiles struct{ authorities, certificate, key string }

func (c *httpConnections) get(files tlsFiles, config func() (*tls.Config, error)) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && c.made == files {
		return c.transport, nil
	}
	settings, err := config()
	if err != nil {
		return nil, err
	}
	c.closeIdle()
	c.transport, c.made = http.DefaultTransport.(*http.Transport).Clone(), files
	c.transport.TLSClientConfig = settings
	return c.transport, nil
}

func (c *httpConnections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeIdle()
	c.transport = nil
}

// closeIdle is close for callers that hold mu.
func (c *httpConnections) closeIdle() {
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// httpTransport returns connections with the certificates as they are in the files now.
func (s *Source) httpTransport() (http.RoundTripper, error) {
	var files tlsFiles
	for _, file := range []struct {
		name string
		text *string
	}{{s.CABundleFile, &files.authorities}, {s.ClientCertFile, &files.certificate}, {s.ClientKeyFile, &files.key}} {
		text, err := readFile(file.name)
		if err != nil {
			return nil, fail("CertificateInvalid", reconciler.Stalled, "reading the certificates for git: %w", err)
		}
		*file.text = string(text)
	}
	return s.connections.get(files, func() (*tls.Config, error) { return s.tlsConfig(files) })
}

func (s *Source) tlsConfig(files tlsFiles) (*tls.Config, error) {
	config := &tls.Config{}
	if s.CABundleFile != "" {
		authorities, err := x509.SystemCertPool()
		if err != nil {
			authorities = x509.NewCertPool()
		}
		if !authorities.AppendCertsFromPEM([]byte(files.authorities)) {
			return nil, fail("CertificateInvalid", reconciler.Stalled, "%s (--git-ca-file) has no certificate in PEM", s.CABundleFile)
		}
		config.RootCAs = authorities
	}
	if s.ClientCertFile == "" && s.ClientKeyFile == "" {
		return config, nil
	}
	// The key may be in the certificate's file, and the certificate in the key's.
	pair, err := tls.X509KeyPair([]byte(cmp.Or(files.certificate, files.key)), []byte(cmp.Or(files.key, files.certificate)))
	if err != nil {
		return nil, fail("CertificateInvalid", reconciler.Stalled, "the client certificate for git (--git-client-cert-file, --git-client-key-file) cannot be used: %w", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}
