// Package client is a client of the daemon's HTTP interface. It bounds the
// size and the time of each answer, and distinguishes a daemon that cannot be
// reached, a daemon that refuses, and a server that is not an hfi daemon.
package client

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
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

// Client sends requests to one daemon. It is safe for concurrent use.
type Client struct {
	// RequestLimit bounds one request, its answer included.
	RequestLimit time.Duration
	// MaxAnswer bounds the body of an answer in bytes.
	MaxAnswer int64
	// HTTP sends the requests.
	HTTP *http.Client
	// Secret, if set, authenticates Reconcile: it is that of the daemon's webhooks.
	Secret string

	server string
}

// New returns a client of the daemon at a base URL. The scheme defaults to http.
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

// UnreachableError says that no answer of a daemon came.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no daemon answers at %s (%v)", redact(e.Server), rootCause(e.Err))
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// AnswerError is an answer with an error status.
type AnswerError struct {
	// Status is the HTTP status. Code and Message are from the body, and may be empty.
	Status        int
	Code, Message string
}

func (e *AnswerError) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return fmt.Sprintf("the daemon answered %d: %s", e.Status, e.Message)
}

// MalformedError is an answer that an hfi daemon cannot have given.
type MalformedError struct {
	URL    string
	Reason string
}

func (e *MalformedError) Error() string {
	return fmt.Sprintf("the answer of %s is not that of an hfi daemon: %s", redact(e.URL), e.Reason)
}

// NotFound reports whether err is the daemon's answer 404. An error page of
// another server, which has no message, does not count.
func NotFound(err error) bool {
	var answer *AnswerError
	return errors.As(err, &answer) && answer.Status == http.StatusNotFound && answer.Message != ""
}

// Selector limits Policies to those that apply to a workload. Nil fields are not sent.
type Selector struct {
	Service, Namespace, Gateway, Waypoint *string
}

// Policies returns the policies served, and the body of the answer.
func (c *Client) Policies(ctx context.Context, selector Selector) ([]*schema.Policy, []byte, error) {
	query := url.Values{}
	if selector.Service != nil {
		query.Set("service", *selector.Service)
	}
	if selector.Namespace != nil {
		query.Set("namespace", *selector.Namespace)
	}
	if selector.Gateway != nil {
		query.Set("gateway", *selector.Gateway)
	}
	if selector.Waypoint != nil {
		query.Set("waypoint", *selector.Waypoint)
	}
	path := api.RoutePolicies
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

// Policy returns one policy with its origin, and the body of the answer.
func (c *Client) Policy(ctx context.Context, name string) (*schema.Policy, schema.Origin, []byte, error) {
	path := api.RoutePolicies + "/" + url.PathEscape(name)
	var answer struct {
		Origin schema.Origin `json:"origin"`
	}
	text, err := c.get(ctx, path, &answer)
	if err != nil {
		return nil, schema.Origin{}, nil, err
	}
	// The answer is the policy with the field origin added.
	policy, err := schema.Parse(text)
	if err != nil {
		return nil, schema.Origin{}, nil, &MalformedError{c.server + path, err.Error()}
	}
	return policy, answer.Origin, text, nil
}

// Status returns the daemon's status, and the body of the answer.
func (c *Client) Status(ctx context.Context) (*api.Status, []byte, error) {
	var answer struct {
		api.Status
		Sync *api.SyncStatus `json:"sync"`
	}
	text, err := c.get(ctx, api.RouteStatus, &answer)
	if err != nil {
		return nil, nil, err
	}
	if answer.Sync == nil || answer.Sync.Status == "" {
		return nil, nil, &MalformedError{c.server + api.RouteStatus, "it has no sync.status"}
	}
	answer.Status.Sync = *answer.Sync
	return &answer.Status, text, nil
}

// Filters returns the status of all filters, and the body of the answer.
func (c *Client) Filters(ctx context.Context) (*api.FiltersStatus, []byte, error) {
	var answer struct {
		api.FiltersStatus
		Items *[]api.FilterStatus `json:"items"`
	}
	text, err := c.get(ctx, api.RouteFilters, &answer)
	if err != nil {
		return nil, nil, err
	}
	if answer.Items == nil {
		return nil, nil, &MalformedError{c.server + api.RouteFilters, "it has no list of filters"}
	}
	answer.FiltersStatus.Items = *answer.Items
	return &answer.FiltersStatus, text, nil
}

// Reconcile makes the daemon fetch from git now. It does not wait for the result.
func (c *Client) Reconcile(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, api.RouteReconcile)
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

// do sends a request and returns the body of a successful answer.
func (c *Client) do(ctx context.Context, method, path string) ([]byte, error) {
	limited, cancel := context.WithTimeoutCause(ctx, c.RequestLimit, fmt.Errorf("no answer within %v", c.RequestLimit))
	defer cancel()
	request, err := http.NewRequestWithContext(limited, method, c.server+path, nil)
	if err != nil {
		return nil, fmt.Errorf("making a request of %s: %w", redact(c.server+path), err)
	}
	request.Header.Set("Accept", "application/json")
	if c.Secret != "" && method == http.MethodPost {
		// As git hosts do it: the signature of the body, which is empty.
		mac := hmac.New(sha256.New, []byte(c.Secret))
		request.Header.Set("X-Hub-Signature-256", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
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
		return nil, &MalformedError{c.server + path, fmt.Sprintf("the connection closed after %d bytes (%v)", len(body), rootCause(err))}
	case int64(len(body)) > c.MaxAnswer:
		return nil, &MalformedError{c.server + path, fmt.Sprintf("it is longer than %d MiB", c.MaxAnswer>>20)}
	case response.StatusCode >= 300:
		return nil, c.answerError(response.StatusCode, body)
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); method == http.MethodGet && !isJSON(kind, body) {
		return nil, &MalformedError{c.server + path, fmt.Sprintf("it is %s and not JSON", describe(kind))}
	}
	return body, nil
}

// failed returns the error for a request without an answer: that of the
// caller's context, or an UnreachableError.
func (c *Client) failed(ctx, limited context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if limited.Err() != nil {
		err = context.Cause(limited)
	}
	return &UnreachableError{c.server, err}
}

// answerError is the error for an answer with an error status. That of a proxy
// which reaches no daemon is an UnreachableError.
func (c *Client) answerError(status int, body []byte) error {
	var answer api.Error
	// A body that is not JSON leaves code and message empty.
	_ = json.Unmarshal(body, &answer)
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		if answer.Error.Code == "" {
			return &UnreachableError{c.server, fmt.Errorf("a proxy answers %d %s", status, http.StatusText(status))}
		}
	}
	return &AnswerError{status, answer.Error.Code, answer.Error.Message}
}

// isJSON looks at the body if a proxy has dropped the content type.
func isJSON(kind string, body []byte) bool {
	return kind == "application/json" || kind != "text/html" && bytes.HasPrefix(bytes.TrimSpace(body), []byte("{"))
}

func describe(kind string) string {
	if kind == "" {
		return "of no type"
	}
	return kind
}

// rootCause removes the method and the URL from an error of package net/http.
func rootCause(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// redact removes the password from a URL.
func redact(address string) string {
	if parsed, err := url.Parse(address); err == nil {
		return parsed.Redacted()
	}
	return address
}
