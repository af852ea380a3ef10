package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// stripServerFields returns the policies in a document that "hfi get -o yaml" or -o json
// printed: a list of policies, or one policy with its origin, which only the daemon
// knows. Any other document is returned as it is.
func stripServerFields(doc document) ([]document, error) {
	root := mappingIn(doc.text)
	if root == nil {
		return []document{doc}, nil
	}
	if list := child(root, "policies"); list != nil && list.Kind == yaml.SequenceNode && len(root.Content) == 2 {
		var found []document
		for _, item := range list.Content {
			policy, err := servedPolicy(item, doc)
			if err != nil {
				return nil, err
			}
			found = append(found, policy)
		}
		return found, nil
	}
	origin := child(root, "origin")
	if !isOrigin(origin) || child(root, "spec") == nil {
		return []document{doc}, nil
	}
	if doc.json || root.Style&yaml.FlowStyle != 0 {
		policy, err := servedPolicy(root, doc)
		return []document{policy}, err
	}
	// Only the lines of the origin are removed: the rest may have been edited.
	first, last := linesOfKey(root, "origin")
	without, blanked := cutLines(doc.text, first, last)
	doc.alone, doc.text, doc.served = without, without, true
	doc.checked = padded(blanked, doc.line)
	return []document{doc}, nil
}

// servedPolicy is an item of a served list, or a whole answer in one line, as a document of its own.
func servedPolicy(node *yaml.Node, in document) (document, error) {
	removeOrigin(node)
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	if err := errors.Join(encoder.Encode(node), encoder.Close()); err != nil {
		return document{}, fmt.Errorf("reading a list of policies: %w", err)
	}
	// Its lines in the file are the same, since "hfi get" writes them in this form.
	line := in.line + node.Line - 1
	doc := document{line: line, name: nameOf(text.Bytes(), unmarshalYAML), served: true, json: in.json}
	doc.text = text.Bytes()
	if in.json {
		converted, err := indentedJSON(node)
		if err != nil {
			return document{}, err
		}
		doc.text = converted
	}
	doc.alone, doc.checked = doc.text, padded(doc.text, line)
	return doc, nil
}

func indentedJSON(node *yaml.Node) ([]byte, error) {
	var value any
	if err := node.Decode(&value); err != nil {
		return nil, fmt.Errorf("reading a policy: %w", err)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("writing a policy as JSON: %w", err)
	}
	return text.Bytes(), nil
}

// isOrigin reports whether a node has the fields of the daemon's origin and no others.
func isOrigin(node *yaml.Node) bool {
	if node == nil || node.Kind != yaml.MappingNode || child(node, "file") == nil {
		return false
	}
	for i := 0; i < len(node.Content); i += 2 {
		if !slices.Contains([]string{"file", "line", "commit"}, node.Content[i].Value) {
			return false
		}
	}
	return true
}

func removeOrigin(mapping *yaml.Node) {
	if mapping.Kind != yaml.MappingNode || !isOrigin(child(mapping, "origin")) {
		return
	}
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == "origin" {
			mapping.Content = slices.Delete(mapping.Content, i, i+2)
			return
		}
	}
}

// mappingIn is the first mapping among the documents of a YAML or JSON text, or nil.
func mappingIn(text []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var node yaml.Node
		err := decoder.Decode(&node)
		switch {
		case errors.Is(err, io.EOF) || err != nil:
			return nil
		case node.Kind == yaml.DocumentNode && len(node.Content) == 1 && node.Content[0].Kind == yaml.MappingNode:
			return node.Content[0]
		}
	}
}

// child is the value of a key of a mapping, or nil.
func child(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; mapping.Kind == yaml.MappingNode && i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// linesOfKey are the first line of a key of a block mapping, and the first line
// after its value, or 0 if that is the end.
func linesOfKey(mapping *yaml.Node, key string) (first, next int) {
	for i := 0; i < len(mapping.Content); i += 2 {
		switch {
		case first > 0:
			return first, mapping.Content[i].Line
		case mapping.Content[i].Value == key:
			first = mapping.Content[i].Line
		}
	}
	return first, 0
}

// cutLines returns a text without some of its lines, and with those lines empty.
func cutLines(text []byte, first, next int) (without, blanked []byte) {
	number := 0
	for line := range bytes.Lines(text) {
		number++
		if number >= first && (number < next || next == 0) {
			blanked = append(blanked, '\n')
			continue
		}
		without, blanked = append(without, line...), append(blanked, line...)
	}
	return without, blanked
}

// padded moves a text down to a line, for messages with the line numbers of the
// file that it came from.
func padded(text []byte, line int) []byte {
	return append([]byte(strings.Repeat("\n", max(line-1, 0))), text...)
}
