package main

import (
	"strconv"
	"strings"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/filter/selection"
	"github.com/boifi/hfi/internal/api"
	"github.com/proxy-wasm/proxy-wasm-go-sdk/proxywasm"
)

const (
	// maxAnswer bounds the body of a response, in bytes. The daemon sends none that is longer.
	maxAnswer = program.MaxSize
	// maxQuoted bounds what a log line quotes of a response, in bytes.
	maxQuoted = 200
)

// answer is the response to a request for policies.
type answer struct {
	// status is the HTTP status. Envoy returns 503 for a refused connection and
	// 504 for a timeout.
	status int
	// unchanged reports a 304.
	unchanged bool
	// tag is the ETag of the policies. It is not empty if status is 200.
	tag, revision, commit string
	// program has the policies. It is nil unless status is 200.
	program *program.Program
	// encoded is the program as it came.
	encoded []byte
}

// pollError is why a request for policies failed.
type pollError struct {
	text string
	// behind reports that the replica has not seen the revision that the filter has.
	behind bool
}

func (e *pollError) Error() string { return e.text }

func failure(text string) *pollError { return &pollError{text: text} }

// readAnswer reads the response of the current callback. If it returns an error,
// the answer must not be used.
func readAnswer(numHeaders, bodySize int, workload selection.Workload) (answer, *pollError) {
	var a answer
	if numHeaders == 0 {
		return a, failure("the response is incomplete")
	}
	headers, err := proxywasm.GetHttpCallResponseHeaders()
	if err != nil {
		return a, failure("reading the response headers: " + err.Error())
	}
	length, mediaType := -1, ""
	for _, header := range headers {
		switch value := strings.Clone(header[1]); header[0] {
		case ":status":
			a.status = number(value)
		case "etag":
			a.tag = value
		case api.HeaderRevision:
			a.revision = value
		case api.HeaderCommit:
			a.commit = value
		case "content-type":
			mediaType = value
		case "content-length":
			length = number(value)
		}
	}
	switch a.status {
	case 200:
	case 304:
		a.unchanged = true
		return a, nil
	default:
		return a, a.refused(bodySize)
	}
	if size := max(bodySize, length); size > maxAnswer {
		return a, failure("the response has " + strconv.Itoa(size) + " bytes and is not read: the limit is " + strconv.Itoa(maxAnswer))
	}
	if length >= 0 && length != bodySize {
		return a, failure("the response ended after " + strconv.Itoa(bodySize) + " of " + strconv.Itoa(length) + " bytes")
	}
	if a.tag == "" {
		return a, failure("the response has no ETag: it does not come from an hfi control plane")
	}
	if mediaType != program.MediaType {
		return a, failure("the response has the type " + quoted(mediaType) + ": the control plane is older than this filter, or is not hfi's")
	}
	body, err := proxywasm.GetHttpCallResponseBody(0, bodySize)
	if err != nil {
		return a, failure("reading the response body: " + err.Error())
	}
	if a.program, err = program.Read(body, workload); err != nil {
		return a, failure(err.Error())
	}
	a.encoded = body
	return a, nil
}

// number returns a number from a header, or 0 for anything else. (The errors of strconv.Atoi
// would make the module larger.) One beyond a billion becomes a billion.
func number(text string) (n int) {
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return 0
		}
		n = min(n*10+int(text[i]-'0'), 1e9)
	}
	return n
}

// refused returns the error for a response that is neither 200 nor 304.
func (a *answer) refused(bodySize int) *pollError {
	text := ""
	if bodySize > 0 {
		if body, err := proxywasm.GetHttpCallResponseBody(0, min(bodySize, maxQuoted)); err == nil {
			text = ": " + quoted(string(body))
		}
	}
	return &pollError{
		text: "status " + strconv.Itoa(a.status) + text,
		// Only a daemon names a revision, and refuses with this status if its own is older.
		behind: a.status == 503 && a.revision != "",
	}
}

// quoted returns text for a log line, without anything that a terminal interprets.
func quoted(text string) string {
	printable := []byte(text[:min(len(text), maxQuoted)])
	for i, b := range printable {
		if b < ' ' || b >= 0x7f {
			printable[i] = ' '
		}
	}
	return `"` + strings.TrimSpace(string(printable)) + `"`
}
