//go:build linux

package lab

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// client speaks to the API server as the cluster's administrator. It is small
// because the node needs little: get, list, watch, create, patch and delete.
type client struct {
	base  string
	token string
	http  *http.Client
}

func newClient(base, token string) *client {
	transport := &http.Transport{
		// The server has generated its own certificate in this lab.
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
		MaxIdleConnsPerHost: 16,
	}
	return &client{base: base, token: token, http: &http.Client{Transport: transport}}
}

// statusError is a response with a status other than 2xx.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.text) }

func isStatus(err error, code int) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == code
}

const (
	mergePatch = "application/merge-patch+json"
	plainJSON  = "application/json"
)

// do sends a request with an optional JSON body, and decodes the response into result if that is not nil.
func (c *client) do(ctx context.Context, method, path, kind string, body, result any) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(text)
	}
	response, err := c.send(ctx, method, path, kind, content)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer response.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, response.Body)
		return err
	}
	if err := json.NewDecoder(response.Body).Decode(result); err != nil {
		return fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return nil
}

func (c *client) send(ctx context.Context, method, path, kind string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+c.token)
	if body != nil {
		request.Header.Set("Content-Type", kind)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4096))
		return nil, &statusError{response.StatusCode, string(text)}
	}
	return response, nil
}

func (c *client) get(ctx context.Context, path string, result any) error {
	return c.do(ctx, http.MethodGet, path, "", nil, result)
}

// event is one line of a watch.
type event struct {
	Type   string          `json:"type"`
	Object json.RawMessage `json:"object"`
}

type listMeta struct {
	Metadata struct {
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// follow calls take with all current objects at a path, and then with each change.
// The type is "" for the list of current objects, in one call, then ADDED, MODIFIED
// or DELETED. It lists again whenever a watch ends, and returns only when ctx is
// done.
func (c *client) follow(ctx context.Context, path string, take func(kind string, objects []json.RawMessage)) {
	for ctx.Err() == nil {
		var list listMeta
		if err := c.get(ctx, path, &list); err != nil {
			pause(ctx, 500*time.Millisecond)
			continue
		}
		take("", list.Items)
		_ = c.watch(ctx, path+"?watch=1&resourceVersion="+list.Metadata.ResourceVersion, take)
		pause(ctx, 200*time.Millisecond)
	}
}

func (c *client) watch(ctx context.Context, path string, take func(string, []json.RawMessage)) error {
	response, err := c.send(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := json.NewDecoder(response.Body)
	for {
		var e event
		if err := lines.Decode(&e); err != nil {
			return err
		}
		switch e.Type {
		case "ADDED", "MODIFIED", "DELETED":
			take(e.Type, []json.RawMessage{e.Object})
		default:
			return fmt.Errorf("the watch ended: %s", e.Object)
		}
	}
}

func pause(ctx context.Context, duration time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(duration):
	}
}
