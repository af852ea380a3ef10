package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// withExpiry returns a policy's text with spec.expires_at set. What its author wrote
// stays, comments included, unless it is JSON.
func withExpiry(text []byte, json bool, at time.Time) ([]byte, error) {
	root := mappingIn(text)
	if root == nil || child(root, "spec") == nil || child(root, "spec").Kind != yaml.MappingNode {
		return nil, fmt.Errorf("the policy has no plain spec: set expires_at in the file")
	}
	spec, stamp := child(root, "spec"), at.UTC().Format(time.RFC3339)
	if json {
		setKey(spec, "expires_at", stamp)
		return indentedJSON(root)
	}
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

// setKey sets a key of a mapping to a string.
func setKey(mapping *yaml.Node, key, text string) {
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if old := child(mapping, key); old != nil {
		*old = *value
		return
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, value)
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
