package cue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"cuelang.org/go/cue/ast"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/token"
	cuejson "cuelang.org/go/encoding/json"
	cueyaml "cuelang.org/go/encoding/yaml"
	"go.yaml.in/yaml/v3"

	"github.com/boifi/hfi/schema"
)

// maxAliasNodes is the maximum number of values that the aliases of a YAML file
// may expand to. It includes merge keys, which CUE's own limit does not.
const maxAliasNodes = 10_000

// maxNodes is the maximum number of values in one document: far more than any
// policy has, and few enough for a fast evaluation.
const maxNodes = 20_000

// maxDigits is the maximum length of a number. Arithmetic on longer ones is slow.
const maxDigits = 100

var byteOrderMark = []byte("\xef\xbb\xbf")

// text checks a file independently of its format, and removes a byte order mark
// as the cue command does.
func text(content []byte) ([]byte, *schema.Problem) {
	if bytes.HasPrefix(content, []byte("version https://git-lfs.github.com/spec/")) {
		return nil, &schema.Problem{Message: "this is a Git LFS pointer, not the file itself; do not store policies in LFS"}
	}
	content = bytes.TrimPrefix(content, byteOrderMark)
	if !utf8.Valid(content) {
		line, column := 1, 1
		for rest := content; len(rest) > 0; {
			r, size := utf8.DecodeRune(rest)
			if r == utf8.RuneError && size == 1 {
				break
			}
			column += size
			if r == '\n' {
				line, column = line+1, 1
			}
			rest = rest[size:]
		}
		return nil, &schema.Problem{Line: line, Column: column, Message: "the file is not valid UTF-8 from here on; save it as UTF-8"}
	}
	return content, nil
}

// decode parses a YAML or JSON text into its documents. It evaluates nothing. If
// there is a problem, decode also returns the documents before it.
func decode(path string, content []byte, limits Limits) ([]ast.Expr, *schema.Problem) {
	content, problem := text(content)
	if problem != nil {
		return nil, problem
	}
	var documents []ast.Expr
	if strings.HasSuffix(path, ".json") {
		documents, problem = decodeJSON(path, content, limits)
	} else {
		documents, problem = decodeYAML(path, content, limits)
	}
	for i, document := range documents {
		if found := tooLarge(document, limits); found != nil {
			return documents[:i], found
		}
	}
	return documents, problem
}

func decodeJSON(path string, content []byte, limits Limits) ([]ast.Expr, *schema.Problem) {
	// CUE's parser is recursive, so the depth is checked before.
	depth, line, start, inString := 0, 1, 0, false
	for i := 0; i < len(content); i++ {
		switch c := content[i]; {
		case c == '\n':
			line, start = line+1, i+1
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			if depth++; depth > limits.MaxDepth {
				return nil, &schema.Problem{Line: line, Column: i - start + 1, Message: tooDeep(limits.MaxDepth)}
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	// The position in the standard library's error is more precise than CUE's.
	var any json.RawMessage
	var syntax *json.SyntaxError
	if err := json.Unmarshal(content, &any); errors.As(err, &syntax) {
		line, column := place(content, int(syntax.Offset)-1)
		return nil, &schema.Problem{Line: line, Column: column, Message: "invalid JSON: " + plainJSON(syntax.Error(), len(bytes.TrimSpace(content)) == 0)}
	}
	if at := loneSurrogate(content); at >= 0 {
		line, column := place(content, at)
		return nil, &schema.Problem{Line: line, Column: column, Message: "invalid JSON: " + halfSurrogate(string(content[at:at+6]))}
	}
	document, err := cuejson.Extract(path, content)
	if err != nil {
		line, column := errorPlace(err)
		return nil, &schema.Problem{Line: line, Column: column, Message: "CUE cannot read this JSON: " + firstLine(err)}
	}
	return []ast.Expr{document}, nil
}

// plainJSON rewrites a syntax error of encoding/json for authors of policies.
func plainJSON(message string, empty bool) string {
	if message == "unexpected end of JSON input" {
		if empty {
			return "the file is empty; delete it, or give it another extension"
		}
		return "the file ends in the middle of a value"
	}
	return message
}

func decodeYAML(path string, content []byte, limits Limits) ([]ast.Expr, *schema.Problem) {
	if problem := expansion(content, limits); problem != nil {
		return nil, problem
	}
	var documents []ast.Expr
	decoder := cueyaml.NewDecoder(path, bytes.NewReader(content))
	for {
		document, err := extract(decoder)
		if errors.Is(err, io.EOF) {
			return documents, nil
		}
		if err != nil {
			problem := yamlProblem(path, err)
			explainYAML(content, problem)
			return documents, problem
		}
		documents = append(documents, document)
	}
}

// extract returns the decoder's next document. A panic becomes an error, because
// the input is not trusted.
func extract(decoder *cueyaml.Decoder) (document ast.Expr, err error) {
	defer func() {
		if r := recover(); r != nil {
			document, err = nil, fmt.Errorf("yaml: cannot be decoded: %.200v", r)
		}
	}()
	return decoder.Extract()
}

var yamlLine = regexp.MustCompile(`(?s)^(?:line )?(\d+)(?::(\d+))?: (.*)$`)

// yamlProblem parses the position from the text of a YAML decoder's error, which
// is the only place that has it.
func yamlProblem(path string, err error) *schema.Problem {
	message := strings.TrimPrefix(strings.TrimPrefix(err.Error(), path+":"), "yaml: ")
	problem := &schema.Problem{Line: 1, Column: 1}
	if found := yamlLine.FindStringSubmatch(message); found != nil {
		problem.Line, _ = strconv.Atoi(found[1])
		if problem.Column, _ = strconv.Atoi(found[2]); problem.Column == 0 {
			problem.Column = 1
		}
		message = found[3]
	} else if line, column := errorPlace(err); line > 0 {
		problem.Line, problem.Column = line, column
	}
	problem.Message = "invalid YAML: " + strings.TrimSpace(message)
	return problem
}

// expansion rejects aliases that contain themselves or expand to too many values.
// CUE's decoder follows merge keys without a limit, even in cycles, and a stack
// overflow ends the whole process.
func expansion(content []byte, limits Limits) *schema.Problem {
	if !bytes.ContainsRune(content, '&') || !bytes.ContainsRune(content, '*') {
		return nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			return nil // the end, or an error that CUE's decoder reports too
		}
		count := counter{limits: limits, open: map[*yaml.Node]bool{}}
		if problem := count.walk(&document, 0, false); problem != nil {
			return problem
		}
	}
}

type counter struct {
	limits Limits
	open   map[*yaml.Node]bool
	nodes  int
}

func (c *counter) walk(node *yaml.Node, depth int, inAlias bool) *schema.Problem {
	at := schema.Problem{Line: max(node.Line, 1), Column: max(node.Column, 1)}
	if depth > c.limits.MaxDepth+1 { // one for the document itself
		at.Message = tooDeep(c.limits.MaxDepth)
		return &at
	}
	if inAlias {
		if c.nodes++; c.nodes > maxAliasNodes {
			at.Message = fmt.Sprintf("the aliases expand to more than %d values", maxAliasNodes)
			return &at
		}
	}
	if node.Kind == yaml.AliasNode {
		if c.open[node.Alias] {
			at.Message = fmt.Sprintf("the alias *%.60s refers to a value that contains itself", node.Value)
			return &at
		}
		return c.walk(node.Alias, depth, true)
	}
	c.open[node] = true
	defer delete(c.open, node)
	for _, child := range node.Content {
		if problem := c.walk(child, depth+1, inAlias); problem != nil {
			return problem
		}
	}
	return nil
}

// tooLarge returns a problem if a document is nested too deeply, has too many
// values, or has a number with too many digits.
func tooLarge(document ast.Expr, limits Limits) *schema.Problem {
	nodes := 0
	var walk func(expr ast.Expr, depth int) *schema.Problem
	walk = func(expr ast.Expr, depth int) *schema.Problem {
		if nodes++; nodes > maxNodes {
			return problemAt(expr, fmt.Sprintf("the document has more than %d values", maxNodes))
		}
		switch x := expr.(type) {
		case *ast.BasicLit:
			if x.Kind != token.STRING && len(x.Value) > maxDigits {
				return problemAt(expr, fmt.Sprintf("this number has more than %d digits", maxDigits))
			}
		case *ast.UnaryExpr:
			return walk(x.X, depth)
		case *ast.StructLit:
			if depth++; depth > limits.MaxDepth {
				return problemAt(expr, tooDeep(limits.MaxDepth))
			}
			for _, decl := range x.Elts {
				if field, ok := decl.(*ast.Field); ok {
					if problem := walk(field.Value, depth); problem != nil {
						return problem
					}
				}
			}
		case *ast.ListLit:
			if depth++; depth > limits.MaxDepth {
				return problemAt(expr, tooDeep(limits.MaxDepth))
			}
			for _, element := range x.Elts {
				if problem := walk(element, depth); problem != nil {
					return problem
				}
			}
		}
		return nil
	}
	return walk(document, 0)
}

func tooDeep(limit int) string {
	return fmt.Sprintf("the document is nested more than %d levels deep; a policy needs at most eight", limit)
}

func problemAt(node ast.Node, message string) *schema.Problem {
	line, column := nodePlace(node)
	return &schema.Problem{Line: line, Column: column, Message: message}
}

// nodePlace returns the line and column of a node, counted from 1.
func nodePlace(node ast.Node) (line, column int) {
	position := node.Pos().Position()
	return max(position.Line, 1), max(position.Column, 1)
}

// errorPlace returns the first position in a CUE error, or zeros.
func errorPlace(err error) (line, column int) {
	for _, position := range cueerrors.Positions(err) {
		if p := position.Position(); p.Line > 0 {
			return p.Line, p.Column
		}
	}
	return 0, 0
}

// place converts an offset into a line and a column, both counted from 1.
func place(content []byte, offset int) (line, column int) {
	offset = min(max(offset, 0), len(content))
	before := content[:offset]
	return bytes.Count(before, []byte("\n")) + 1, offset - (bytes.LastIndexByte(before, '\n') + 1) + 1
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return strings.ReplaceAll(line, "\t", " ")
}
