package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

var errNoSpec = errors.New("the policy has no plain spec: set expires_at in the file")

// withExpiry returns a policy's text with spec.expires_at set. What its author wrote
// stays, comments included.
func withExpiry(text []byte, isJSON bool, at time.Time) ([]byte, error) {
	stamp := at.UTC().Format(time.RFC3339)
	if isJSON {
		return jsonWithExpiry(text, stamp)
	}
	root := mappingIn(text)
	if root == nil || child(root, "spec") == nil || child(root, "spec").Kind != yaml.MappingNode {
		return nil, errNoSpec
	}
	spec := child(root, "spec")
	lines := bytes.SplitAfter(text, []byte("\n"))
	edit := func(line, column, length int, insert string) {
		old := lines[line-1]
		from := byteOffset(old, column-1)
		to := byteOffset(old, column-1+length)
		lines[line-1] = bytes.Join([][]byte{old[:from], []byte(insert), old[to:]}, nil)
	}
	present := child(spec, "expires_at")
	switch {
	case present != nil && present.Style == 0:
		edit(present.Line, present.Column, utf8.RuneCountInString(present.Value), fmt.Sprintf("%q", stamp))
	case present != nil && present.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		edit(present.Line, present.Column, utf8.RuneCountInString(present.Value)+2, fmt.Sprintf("%q", stamp))
	case spec.Style&yaml.FlowStyle != 0:
		edit(spec.Line, spec.Column+1, 0, fmt.Sprintf("expires_at: %q, ", stamp))
	case len(spec.Content) > 0:
		first := spec.Content[0]
		end := "\n"
		if bytes.HasSuffix(lines[first.Line-1], []byte("\r\n")) {
			end = "\r\n"
		}
		edit(first.Line, 1, 0, fmt.Sprintf("%sexpires_at: %q%s", strings.Repeat(" ", first.Column-1), stamp, end))
	}
	edited := bytes.Join(lines, nil)
	if root := mappingIn(edited); root != nil {
		if spec := child(root, "spec"); spec != nil {
			if written := child(spec, "expires_at"); written != nil && written.Value == stamp {
				return edited, nil
			}
		}
	}
	return nil, fmt.Errorf("the policy is written in a form that hfi cannot change: set expires_at in the file")
}

// jsonWithExpiry is withExpiry for JSON, not all of which is YAML.
func jsonWithExpiry(text []byte, stamp string) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := findKey(decoder, "spec"); err != nil {
		return nil, errNoSpec
	}
	// The text is valid: behind a key is a colon.
	from := decoder.InputOffset() + int64(bytes.IndexByte(text[decoder.InputOffset():], '{')) + 1
	if err := findKey(decoder, "expires_at"); err != nil {
		insert := fmt.Sprintf("%q: %q, ", "expires_at", stamp)
		return slices.Concat(text[:from], []byte(insert), text[from:]), nil
	}
	colon := decoder.InputOffset() + int64(bytes.IndexByte(text[decoder.InputOffset():], ':')) + 1
	var value json.RawMessage
	if err := decoder.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading expires_at: %w", err)
	}
	return slices.Concat(text[:colon], fmt.Appendf(nil, " %q", stamp), text[decoder.InputOffset():]), nil
}

// findKey reads up to the value of a key of the object that comes next.
func findKey(decoder *json.Decoder, key string) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errNoSpec
	}
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil || name == key {
			return err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return fmt.Errorf("reading a policy: %w", err)
		}
	}
	return errNoSpec
}

// byteOffset is the offset in a line of its nth character.
func byteOffset(line []byte, n int) int {
	at := 0
	for ; n > 0 && at < len(line); n-- {
		_, size := utf8.DecodeRune(line[at:])
		at += size
	}
	return at
}
