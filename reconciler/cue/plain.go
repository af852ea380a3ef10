package cue

import (
	"encoding/json"
	"unicode/utf8"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
)

// maxPlainNumber is the maximum length of a number in plain data. CUE and all
// JSON libraries read such numbers alike.
const maxPlainNumber = 15

// plain appends a document as JSON, and reports whether it is plain data, which
// has only one possible value: mappings without duplicate keys, lists, strings,
// numbers in JSON's form, true, false and null. A document that is not plain data
// may be valid: CUE has to evaluate it.
func plain(to []byte, expr ast.Expr) ([]byte, bool) {
	switch x := expr.(type) {
	case *ast.StructLit:
		return plainStruct(to, x)
	case *ast.ListLit:
		to = append(to, '[')
		for i, element := range x.Elts {
			if i > 0 {
				to = append(to, ',')
			}
			var ok bool
			if to, ok = plain(to, element); !ok {
				return to, false
			}
		}
		return append(to, ']'), true
	case *ast.BasicLit:
		return plainScalar(to, x)
	}
	return to, false
}

func plainStruct(to []byte, x *ast.StructLit) ([]byte, bool) {
	to = append(to, '{')
	for i, decl := range x.Elts {
		field, ok := decl.(*ast.Field)
		if !ok {
			return to, false
		}
		name, ok := plainLabel(field)
		if !ok || repeated(x.Elts[:i], name) {
			return to, false
		}
		if i > 0 {
			to = append(to, ',')
		}
		if to, ok = plainText(to, name); !ok {
			return to, false
		}
		to = append(to, ':')
		if to, ok = plain(to, field.Value); !ok {
			return to, false
		}
	}
	return append(to, '}'), true
}

// maxPlainFields bounds the cost of the search for duplicate keys. No mapping in
// a valid policy has as many fields.
const maxPlainFields = 64

// plainLabel returns the name of a regular field, if it is ASCII. CUE normalises
// other names, so that two different names may be equal.
func plainLabel(field *ast.Field) (string, bool) {
	if field.Constraint != token.ILLEGAL || field.Alias != nil || len(field.Attrs) > 0 {
		return "", false
	}
	name, isIdentifier, err := ast.LabelName(field.Label)
	if err != nil || isIdentifier && (name[0] == '_' || name[0] == '#') {
		return "", false
	}
	for i := range len(name) {
		if name[i] >= utf8.RuneSelf {
			return "", false
		}
	}
	return name, true
}

// repeated reports whether one of the fields has the name, or there are too many
// fields to search.
func repeated(fields []ast.Decl, name string) bool {
	if len(fields) >= maxPlainFields {
		return true
	}
	for _, decl := range fields {
		if labelOf(decl.(*ast.Field)) == name {
			return true
		}
	}
	return false
}

func plainScalar(to []byte, x *ast.BasicLit) ([]byte, bool) {
	switch x.Kind {
	case token.NULL, token.TRUE, token.FALSE:
		return append(to, x.Value...), true
	case token.INT, token.FLOAT:
		if len(x.Value) > maxPlainNumber || !plainNumber(x.Value) {
			return to, false
		}
		return append(to, x.Value...), true
	case token.STRING:
		if x.Value == "" || x.Value[0] != '"' { // other quotes may be bytes
			return to, false
		}
		text, err := literal.Unquote(x.Value)
		if err != nil {
			return to, false
		}
		return plainText(to, text)
	}
	return to, false
}

// plainNumber reports whether a text is a non-negative decimal number as in JSON:
// digits without a leading zero, optionally followed by a dot and more digits.
func plainNumber(text string) bool {
	digits := 0
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9':
			digits++
		case c != '.' || digits != i || i == 0 || i == len(text)-1:
			return false
		}
	}
	return digits > 0 && (text[0] != '0' || len(text) == 1 || text[1] == '.')
}

func plainText(to []byte, text string) ([]byte, bool) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			quoted, err := json.Marshal(text)
			return append(to, quoted...), err == nil && utf8.ValidString(text)
		}
	}
	return append(append(append(to, '"'), text...), '"'), true
}
