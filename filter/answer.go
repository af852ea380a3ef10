package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/boifi/hfi/internal/api"
	"github.com/boifi/hfi/schema"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

// maxAnswer bounds the body of a response, in bytes. The daemon sends none that is longer.
const maxAnswer = 4 << 20

// answer is the response to a request for policies.
type answer struct {
	// status is the HTTP status. Envoy returns 503 for a refused connection and
	// 504 for a timeout.
	status int
	// unchanged reports a 304.
	unchanged bool
	// tag is the ETag of the policies. It is not empty if status is 200.
	tag, revision, commit string
	policies              []*schema.Policy
	// bad are policies of the answer that this filter cannot read.
	bad []error
}

// errBehind reports that the replica has not seen the revision that the filter has.
var errBehind = errors.New("the replica's policies are older than the filter's")

// readAnswer reads the response of the current callback. If it returns an error,
// the answer must not be used.
func readAnswer(numHeaders, bodySize int) (answer, error) {
	var a answer
	if numHeaders == 0 {
		return a, errors.New("the response is incomplete")
	}
	headers, err := proxywasm.GetHttpCallResponseHeaders()
	if err != nil {
		return a, fmt.Errorf("reading the response headers: %w", err)
	}
	length := -1
	for _, header := range headers {
		switch value := strings.Clone(header[1]); header[0] {
		case ":status":
			a.status, _ = strconv.Atoi(value)
		case "etag":
			a.tag = value
		case api.HeaderRevision:
			a.revision = value
		case api.HeaderCommit:
			a.commit = value
		case "content-length":
			length, _ = strconv.Atoi(value)
		}
	}
	switch a.status {
	case 200:
	case 304:
		a.unchanged = true
		return a, nil
	default:
		return a, a.failure(bodySize)
	}
	if size := max(bodySize, length); size > maxAnswer {
		return a, fmt.Errorf("the response has %d bytes and is not read: the limit is %d", size, maxAnswer)
	}
	if length >= 0 && length != bodySize {
		return a, fmt.Errorf("the response ended after %d of %d bytes", bodySize, length)
	}
	if a.tag == "" {
		return a, errors.New("the response has no ETag: it does not come from an hfi control plane")
	}
	body, err := proxywasm.GetHttpCallResponseBody(0, bodySize)
	if err != nil {
		return a, fmt.Errorf("reading the response body: %w", err)
	}
	return a, a.parse(body)
}

// parse reads the policies one by one: an invalid one does not affect the others.
func (a *answer) parse(body []byte) error {
	var list struct {
		Policies []json.RawMessage `json:"policies"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("the response is not a JSON list of policies: %w", err)
	}
	if list.Policies == nil {
		return errors.New("the response is JSON without a list of policies")
	}
	for _, text := range list.Policies {
		policy, err := schema.Parse(text)
		if err != nil {
			a.bad = append(a.bad, err)
			continue
		}
		a.policies = append(a.policies, policy)
	}
	return nil
}

// failure returns the error for a response that is neither 200 nor 304.
func (a *answer) failure(bodySize int) error {
	var message struct {
		Error struct{ Code, Message string }
	}
	text := ""
	if 0 < bodySize && bodySize <= 64<<10 {
		if body, err := proxywasm.GetHttpCallResponseBody(0, bodySize); err == nil {
			text = string(body)
			if json.Unmarshal(body, &message) == nil && message.Error.Message != "" {
				text = message.Error.Message
			}
		}
	}
	if message.Error.Code == "behind" {
		return fmt.Errorf("%w: %s", errBehind, text)
	}
	return fmt.Errorf("status %d: %.200q", a.status, text)
}
