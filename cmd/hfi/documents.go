package main

import (
	"bytes"
	"encoding/json"
	"slices"

	"sigs.k8s.io/yaml"
)

// document is one document of a YAML stream, or a JSON file, as its author wrote it.
type document struct {
	// start and end are where its text is in the file, without the marker before it.
	start, end int
	// text is the document's text.
	text []byte
	// alone is the content for a file of its own: the whole file if this is its only
	// document, including comments before the first marker.
	alone []byte
	// line is the document's first line in the file, from 1.
	line int
	// name is metadata.name, or empty if it cannot be read.
	name string
	json bool
	// served says that it came from the daemon and not from an author; checked is
	// then the text to validate, with the line numbers of the file that it came from.
	served  bool
	checked []byte
}

// splitDocuments returns the documents of a YAML stream, or a JSON file as one
// document. In YAML a line that begins with three dashes and a blank is always a
// marker, so no parser is needed. Documents that are empty or have only comments
// are left out.
func splitDocuments(file []byte) []document {
	if isJSON(file) {
		return []document{{end: len(file), text: file, alone: file, line: 1, name: nameOf(file, json.Unmarshal), json: true}}
	}
	var found []document
	begin, line, firstLine := 0, 1, 1
	finish := func(end int) {
		text := file[begin:end]
		if !onlyComments(text) {
			found = append(found, document{start: begin, end: end, text: text, alone: text, line: firstLine, name: nameOf(text, unmarshalYAML)})
		}
	}
	at := 0
	for text := range bytes.Lines(file) {
		if isMarker(text) {
			finish(at)
			// Text after the marker on the same line belongs to the document.
			begin, firstLine = at+len("---"), line
			if onlyComments(text[len("---"):]) {
				begin, firstLine = at+len(text), line+1
			}
		}
		at += len(text)
		line++
	}
	finish(len(file))
	if len(found) == 1 {
		found[0].alone = file
	}
	return found
}

func isMarker(line []byte) bool {
	rest, ok := bytes.CutPrefix(line, []byte("---"))
	return ok && (len(rest) == 0 || bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])))
}

func onlyComments(text []byte) bool {
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("...")) && !isDirective(line) {
			return false
		}
	}
	return true
}

func isDirective(line []byte) bool { return bytes.HasPrefix(line, []byte("%YAML")) }

func isJSON(file []byte) bool {
	return bytes.HasPrefix(bytes.TrimSpace(file), []byte("{")) && json.Valid(file)
}

func unmarshalYAML(text []byte, into any) error { return yaml.Unmarshal(text, into) }

// nameOf returns the policy's name, or an empty string if the text is not one policy.
func nameOf(text []byte, unmarshal func([]byte, any) error) string {
	var policy struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := unmarshal(text, &policy); err != nil {
		return ""
	}
	return policy.Metadata.Name
}

// replaceDocument replaces a document by a text. Line endings stay as they are.
func replaceDocument(file []byte, old document, text []byte) []byte {
	text = withNewline(text)
	var next bytes.Buffer
	next.Write(file[:old.start])
	if old.start > 0 && file[old.start-1] != '\n' {
		next.WriteByte('\n')
	}
	next.Write(text)
	next.Write(file[old.end:])
	return next.Bytes()
}

func withNewline(text []byte) []byte {
	if len(text) > 0 && text[len(text)-1] != '\n' {
		return append(slices.Clip(text), '\n')
	}
	return text
}
