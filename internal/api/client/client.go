// Package client is a client of the daemon's HTTP interface, for programs that
// ask it what it serves: it knows the routes, bounds what it reads, and tells
// apart the ways in which a server can fail to be an hfi daemon.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
)

// Defaults of a Client's tunable fields.
const (
	// DefaultRequestLimit bounds one request, its answer included.
	DefaultRequestLimit = 10 * time.Second
	// DefaultMaxAnswer bounds an answer's body in bytes: some hundred thousand policies.
	DefaultMaxAnswer = 64 << 20
)

// Client asks one daemon. It may be used by several goroutines at once.
type Client struct {
	// RequestLimit bounds one request, its answer included.
	RequestLimit time.Duration
	// MaxAnswer bounds the body of an answer in bytes.
	MaxAnswer int64
	// HTTP carries the requests.
	HTTP *http.Client

	server string
}

// New makes a client of the daemon at a base URL. A server without a scheme
// is taken for http.
func New(server string) (*Client, error) {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("%q is not the address of a server: give one such as http://127.0.0.1:8080", server)
	}
	base.RawQuery, base.Fragment = "", ""
	return &Client{
		RequestLimit: DefaultRequestLimit,
		MaxAnswer:    DefaultMaxAnswer,
		HTTP:         &http.Client{},
		server:       strings.TrimSuffix(base.String(), "/"),
	}, nil
}

// UnreachableError says that nothing answered.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no daemon answers at %s (%v)", redact(e.Server), rootCause(e.Err))
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// AnswerError is an answer that says that the request failed.
type AnswerError struct {
	// Status is the HTTP status; Code and Message are the daemon's, and may be empty.
	Status        int
	Code, Message string
}

func (e *AnswerError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the daemon answered %d: %s", e.Status, e.Message)
}

// MalformedError is an answer that no hfi daemon gives.
type MalformedError struct {
	URL    string
	Reason string
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("the answer of %s is not that of an hfi daemon: %s", redact(e.URL), e.Reason)
}

// NotFound says whether an error is the daemon's answer that there is no such thing.
func NotFound(err error) bool {
	var answer *AnswerError
	return errors.As(err, &answer) && answer.Status == http.StatusNotFound && answer.Message != ""
}

// Selector narrows Policies to what a filter of that workload gets. Nil fields are not sent.
type Selector struct {
	Service, Namespace *string
}

// Policies are the policies served, and the daemon's answer as it stands.
func (c *Client) Policies(ctx context.Context, selector Selector) ([]*schema.Policy, []byte, error) {
	query := url.Values{}
	if selector.Service != nil {
		query.Set("service", *selector.Service)
	}
	if selector.Namespace != nil {
		query.Set("namespace", *selector.Namespace)
	}
	path := "/v1/policies"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	var answer struct {
		Policies []json.RawMessage `json:"policies"`
	}
	text, err := c.get(ctx, path, &answer)
	if err != nil {
		return nil, nil, err
	}
	if answer.Policies == nil {
		return nil, nil, &MalformedError{c.server + path, "it has no list of policies"}
	}
	policies := make([]*schema.Policy, 0, len(answer.Policies))
	for _, raw := range answer.Policies {
		policy, err := schema.Parse(raw)
		if err != nil {
			return nil, nil, &MalformedError{c.server + path, err.Error()}
		}
		policies = append(policies, policy)
	}
	return policies, text, nil
}

// Policy is one policy with its origin, and the daemon's answer as it stands.
func (c *Client) Policy(ctx context.Context, name string) (*schema.Policy, schema.Origin, []byte, error) {
	path := "/v1/policies/" + url.PathEscape(name)
	var answer struct {
		Origin schema.Origin `json:"origin"`
	}
	text, err := c.get(ctx, path, &answer)
	if err != nil {
		return nil, schema.Origin{}, nil, err
	}
	// The origin stands among the policy's own fields.
	policy, err := schema.Parse(text)
	if err != nil {
		return nil, schema.Origin{}, nil, &MalformedError{c.server + path, err.Error()}
	}
	return policy, answer.Origin, text, nil
}

// Status is the daemon's status, and its answer as it stands.
func (c *Client) Status(ctx context.Context) (*api.Status, []byte, error) {
	var answer struct {
		api.Status
		Sync *api.SyncStatus `json:"sync"`
	}
	text, err := c.get(ctx, "/v1/status", &answer)
	if err != nil {
		return nil, nil, err
	}
	if answer.Sync == nil || answer.Sync.Status == "" {
		return nil, nil, &MalformedError{c.server + "/v1/status", "it has no sync.status"}
	}
	answer.Status.Sync = *answer.Sync
	return &answer.Status, text, nil
}

// Filters are the filters that ask the daemon or its peers, and its answer as it stands.
func (c *Client) Filters(ctx context.Context) (*api.FiltersStatus, []byte, error) {
	var answer struct {
		api.FiltersStatus
		Items *[]api.FilterStatus `json:"items"`
	}
	text, err := c.get(ctx, "/v1/filters", &answer)
	if err != nil {
		return nil, nil, err
	}
	if answer.Items == nil {
		return nil, nil, &MalformedError{c.server + "/v1/filters", "it has no list of filters"}
	}
	answer.FiltersStatus.Items = *answer.Items
	return &answer.FiltersStatus, text, nil
}

// Reconcile asks the daemon to look at git now. It does not wait for that.
func (c *Client) Reconcile(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, "/v1/reconcile")
	return err
}

func (c *Client) get(ctx context.Context, path string, into any) ([]byte, error) {
	text, err := c.do(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return nil, &MalformedError{c.server + path, err.Error()}
	}
	return text, nil
}

// do sends a request and gives the body of a successful answer.
func (c *Client) do(ctx context.Context, method, path string) ([]byte, error) {
	limited, cancel := context.WithTimeoutCause(ctx, c.RequestLimit, fmt.Errorf("no answer within %v", c.RequestLimit))
	defer cancel()
	request, err := http.NewRequestWithContext(limited, method, c.server+path, nil)
	if err != nil {
		return nil, fmt.Errorf("making a request of %s: %w", redact(c.server+path), err)
	}
	request.Header.Set("Accept", "application/json")
	response, err := c.HTTP.Do(request)
	if err != nil {
		return nil, c.failed(ctx, limited, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, c.MaxAnswer+1))
	switch {
	case err != nil && limited.Err() != nil:
		return nil, c.failed(ctx, limited, err)
	case err != nil:
		return nil, &MalformedError{c.server + path, fmt.Sprintf("it broke off after %d bytes (%v)", len(body), rootCause(err))}
	case int64(len(body)) > c.MaxAnswer:
		return nil, &MalformedError{c.server + path, fmt.Sprintf("it is longer than %d MiB", c.MaxAnswer>>20)}
	case response.StatusCode >= 300:
		return nil, answerError(response.StatusCode, body)
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); method == http.MethodGet && !isJSON(kind, body) {
		return nil, &MalformedError{c.server + path, fmt.Sprintf("it is %s and not JSON", describe(kind))}
	}
	return body, nil
}

// failed is why there is no answer: the caller's end, or the server's silence.
func (c *Client) failed(ctx, limited context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if limited.Err() != nil {
		err = context.Cause(limited)
	}
	return &UnreachableError{c.server, err}
}

func answerError(status int, body []byte) error {
	var answer struct {
		Error struct{ Code, Message string }
	}
	// What is no JSON has no message: the status then says it all.
	_ = json.Unmarshal(body, &answer)
	return &AnswerError{status, answer.Error.Code, answer.Error.Message}
}

// isJSON goes by the content where a proxy has lost the type.
func isJSON(kind string, body []byte) bool {
	return kind == "application/json" || kind != "text/html" && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{"))
}

func describe(kind string) string {
	if kind == "" {
		return "of no type"
	}
	return kind
}

// rootCause drops the layers of an HTTP error that repeat the method and the URL.
func rootCause(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// redact takes a password out of a URL.
func redact(address string) string {
	if parsed, err := url.Parse(address); err == nil {
		return parsed.Redacted()
	}
	return address
}
