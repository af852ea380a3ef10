package cue

import (
	"fmt"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"
)

// fieldPath is a path in a document: keys of mappings and indices of lists.
type fieldPath []string

// node returns the field at a path (nil for an item of a list and for the
// document), its value (nil if the path does not exist), and the number of steps
// of the path that exist.
func node(document ast.Expr, p fieldPath) (field *ast.Field, value ast.Expr, steps int) {
	value = document
	for i, step := range p {
		switch x := value.(type) {
		case *ast.StructLit:
			var next *ast.Field
			for _, decl := range x.Elts {
				// Of duplicate keys, the last one.
				if f, ok := decl.(*ast.Field); ok && labelOf(f) == step {
					next = f
				}
			}
			if next == nil {
				return field, nil, i
			}
			field, value = next, next.Value
		case *ast.ListLit:
			n, err := strconv.Atoi(step)
			if err != nil || n < 0 || n >= len(x.Elts) {
				return field, nil, i
			}
			field, value = nil, x.Elts[n]
		default:
			return field, nil, i
		}
	}
	return field, value, len(p)
}

// pathTo returns the path of the value at a position, or nil.
func pathTo(expr ast.Expr, pos token.Pos) fieldPath {
	switch x := expr.(type) {
	case *ast.StructLit:
		for _, decl := range x.Elts {
			if f, ok := decl.(*ast.Field); ok {
				if f.Value.Pos() == pos {
					return fieldPath{labelOf(f)}
				}
				if below := pathTo(f.Value, pos); below != nil {
					return append(fieldPath{labelOf(f)}, below...)
				}
			}
		}
	case *ast.ListLit:
		for i, element := range x.Elts {
			if element.Pos() == pos {
				return fieldPath{strconv.Itoa(i)}
			}
			if below := pathTo(element, pos); below != nil {
				return append(fieldPath{strconv.Itoa(i)}, below...)
			}
		}
	}
	return nil
}

func labelOf(field *ast.Field) string {
	name, _, err := ast.LabelName(field.Label)
	if err != nil {
		return ""
	}
	return name
}

// deepest returns the last existing node on a path. Its position is the place of a problem.
func deepest(document ast.Expr, p fieldPath) ast.Node {
	field, value, steps := node(document, p)
	if value == nil {
		field, value, _ = node(document, p[:steps])
	}
	if field != nil {
		switch value.(type) {
		case *ast.StructLit, *ast.ListLit:
			return field.Label // the position of a block is the line below its key
		}
	}
	return value
}

// put replaces the value at a path, or adds the field to its struct. It reports
// whether the document has changed.
func put(document *ast.Expr, p fieldPath, sample string) bool {
	value, err := parser.ParseExpr("sample", sample)
	if err != nil {
		return false
	}
	if len(p) == 0 {
		*document = value
		return true
	}
	_, parent, _ := node(*document, p[:len(p)-1])
	last := p[len(p)-1]
	switch x := parent.(type) {
	case *ast.StructLit:
		remove(x, last) // all duplicates of the key
		x.Elts = append(x.Elts, &ast.Field{Label: ast.NewString(last), Value: value})
		return true
	case *ast.ListLit:
		if n, err := strconv.Atoi(last); err == nil && n >= 0 && n < len(x.Elts) {
			x.Elts[n] = value
			return true
		}
	}
	return false
}

// remove removes the fields with a name from a struct, and reports whether there were any.
func remove(parent ast.Expr, name string) bool {
	x, ok := parent.(*ast.StructLit)
	if !ok {
		return false
	}
	kept := make([]ast.Decl, 0, len(x.Elts))
	for _, decl := range x.Elts {
		if f, ok := decl.(*ast.Field); !ok || labelOf(f) != name {
			kept = append(kept, decl)
		}
	}
	removed := len(kept) < len(x.Elts)
	x.Elts = kept
	return removed
}

// maxCloned is the maximum number of items of a list or fields of a struct that
// take part in the search for errors. Longer ones are invalid because of their
// length, and the shortened copies are still too long.
const maxCloned = 100

// clone returns a deep copy of a document, which the search for further errors
// can change.
func clone(expr ast.Expr) ast.Expr {
	switch x := expr.(type) {
	case *ast.StructLit:
		c := &ast.StructLit{Lbrace: x.Lbrace, Rbrace: x.Rbrace}
		for _, decl := range x.Elts[:min(len(x.Elts), maxCloned)] {
			if f, ok := decl.(*ast.Field); ok {
				// A string as the label, so that no reference resolves to the field.
				label := ast.NewString(labelOf(f))
				ast.SetPos(label, f.Label.Pos())
				decl = &ast.Field{Label: label, Value: clone(f.Value)}
			}
			c.Elts = append(c.Elts, decl)
		}
		return c
	case *ast.ListLit:
		c := &ast.ListLit{Lbrack: x.Lbrack, Rbrack: x.Rbrack}
		for _, element := range x.Elts[:min(len(x.Elts), maxCloned)] {
			c.Elts = append(c.Elts, clone(element))
		}
		return c
	case *ast.BasicLit:
		c := *x
		return &c
	default:
		return expr
	}
}

// general returns the path in the form of the keys of fields: [] for an item of a
// list, * for the name of a header.
func (p fieldPath) general() string {
	var b strings.Builder
	for _, step := range p {
		switch at := b.String(); {
		case at == headersField:
			b.WriteString(".*")
		case at == "spec.rules", at == "spec.rules[].match.methods", at == "spec.rules[].match.headers":
			b.WriteString("[]")
		case at == "":
			b.WriteString(step)
		default:
			b.WriteString("." + step)
		}
	}
	return b.String()
}

// String returns the path in the form spec.rules[0].fault.percentage.
func (p fieldPath) String() string {
	var b strings.Builder
	for i, step := range p {
		switch {
		case isIndex(step) && i > 0 && endsInList(p[:i]):
			fmt.Fprintf(&b, "[%s]", step)
		case !ast.IsValidIdent(step):
			fmt.Fprintf(&b, "[%s]", quote(step))
		case b.Len() == 0:
			b.WriteString(step)
		default:
			b.WriteString("." + step)
		}
	}
	return b.String()
}

func endsInList(p fieldPath) bool {
	switch p.general() {
	case "spec.rules", "spec.rules[].match.methods", "spec.rules[].match.headers":
		return true
	}
	return false
}

func isIndex(step string) bool {
	_, err := strconv.ParseUint(step, 10, 31)
	return err == nil
}

// quote quotes a text for a message, shortened to 40 characters.
func quote(s string) string {
	if runes := []rune(s); len(runes) > 40 {
		s = string(runes[:40]) + "…"
	}
	return strconv.Quote(s)
}

// show formats a value for a message.
func show(value ast.Expr) string {
	switch x := value.(type) {
	case *ast.StructLit:
		return aMapping
	case *ast.ListLit:
		return aList
	case *ast.UnaryExpr:
		return x.Op.String() + show(x.X)
	case *ast.BasicLit:
		switch x.Kind {
		case token.NULL:
			return "empty (null)"
		case token.STRING:
			if s, err := literal.Unquote(x.Value); err == nil {
				return quote(s)
			}
			return "a string"
		}
		if digits, isOctal := strings.CutPrefix(x.Value, "0o"); isOctal {
			if number, err := strconv.ParseUint(digits, 8, 63); err == nil {
				return fmt.Sprintf("%d (octal 0%s)", number, digits)
			}
		}
		if len(x.Value) > 40 {
			return x.Value[:40] + "…"
		}
		return x.Value
	}
	return "this value"
}
