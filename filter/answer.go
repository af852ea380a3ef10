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

// maxAnswer bounds the body of an answer in bytes. The daemon makes none that is longer.
const maxAnswer = 4 << 20

// answer is what came back for a request for policies.
type answer struct {
	// status is HTTP's; Envoy makes 503 of a refused connection and 504 of a time-out.
	status int
	// unchanged: 304.
	unchanged bool
	// tag names the policies; not empty with 200.
	tag, revision, commit string
	policies              []*schema.Policy
	// bad are policies of the answer that this filter cannot read.
	bad []error
}

// errBehind: the replica has not seen the revision that the filter has.
var errBehind = errors.New("this replica is behind what the filter has")

// readAnswer reads the answer that Envoy holds at the moment. With an error
// nothing of it must be used.
func readAnswer(numHeaders, bodySize int) (answer, error) {
	var a answer
	if numHeaders == 0 {
		return a, errors.New("the answer broke off")
	}
	headers, err := proxywasm.GetHttpCallResponseHeaders()
	if err != nil {
		return a, fmt.Errorf("reading the answer's headers: %w", err)
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
		return a, fmt.Errorf("the answer has %d bytes, and may have %d: it was not read", size, maxAnswer)
	}
	if length >= 0 && length != bodySize {
		return a, fmt.Errorf("the answer broke off after %d of %d bytes", bodySize, length)
	}
	if a.tag == "" {
		return a, errors.New("the answer has no ETag: no hfi control plane sent it")
	}
	body, err := proxywasm.GetHttpCallResponseBody(0, bodySize)
	if err != nil {
		return a, fmt.Errorf("reading the answer's body: %w", err)
	}
	return a, a.parse(body)
}

// parse reads the policies, each for itself: a bad one does not spoil the rest.
func (a *answer) parse(body []byte) error {
	var list struct {
		Policies []json.RawMessage `json:"policies"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("the answer is not the JSON of a list of policies: %w", err)
	}
	if list.Policies == nil {
		return errors.New("the answer is JSON without a list of policies")
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

// failure puts an answer that is neither 200 nor 304 into words.
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
