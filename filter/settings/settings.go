// Package settings reads the filter's configuration, which is a JSON object. It
// accepts the same texts as encoding/json and reads them alike, but adds little to the
// module: encoding/json and what it needs would be a third of the filter's code.
package settings

import (
	"errors"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// Setting is a member of the object.
type Setting struct {
	Name  string
	Value Value
}

// Kind is the kind of a JSON value.
type Kind uint8

// The kinds of JSON values.
const (
	Null Kind = iota
	Bool
	Number
	String
	Array
	Object
)

// Value is a JSON value.
type Value struct {
	Kind Kind
	// JSON is the value as it is in the configuration.
	JSON string
	// Text is the decoded text of a String.
	Text string
}

// maxDepth is how deep arrays and objects may be nested, as in encoding/json.
const maxDepth = 10_000

// Parse reads a JSON object. Of several members with the same name, the last one counts.
// The value null is an object without members. Arrays and objects among the members are
// checked, and not read.
func Parse(json []byte) ([]Setting, error) {
	p := &parser{text: string(json)}
	p.space()
	var settings []Setting
	if p.next() == '{' {
		settings = p.object()
	} else if value := p.value(0); p.err == nil && value.Kind != Null {
		return nil, errors.New("it begins with " + quoted(value.JSON[:1]))
	}
	p.space()
	if p.err == nil && p.at < len(p.text) {
		p.unexpected()
	}
	if p.err != nil {
		return nil, p.err
	}
	return settings, nil
}

// parser is at a byte of the text. After an error it is at the end.
type parser struct {
	text string
	at   int
	err  error
}

// next returns the next byte, or 0 at the end.
func (p *parser) next() byte {
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.at = len(p.text)
}

// unexpected fails because of the next byte.
func (p *parser) unexpected() {
	if p.at >= len(p.text) {
		p.fail(errors.New("it ends too early"))
		return
	}
	p.fail(errors.New("unexpected " + quoted(p.text[p.at:p.at+1]) + " at byte " + strconv.Itoa(p.at+1)))
}

// quoted returns a byte as it is shown in an error.
func quoted(character string) string {
	if c := character[0]; c < ' ' || c >= 0x7f {
		return "byte " + strconv.Itoa(int(c))
	}
	return "'" + character + "'"
}

// accept skips the next byte if it is c.
func (p *parser) accept(c byte) bool {
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) expect(c byte) {
	if !p.accept(c) {
		p.unexpected()
	}
}

func (p *parser) space() {
	for p.at < len(p.text) && (p.text[p.at] == ' ' || p.text[p.at] == '\t' || p.text[p.at] == '\n' || p.text[p.at] == '\r') {
		p.at++
	}
}

// object reads the outermost object.
func (p *parser) object() (settings []Setting) {
	p.members(func() {
		name := p.str()
		p.space()
		p.expect(':')
		p.space()
		setting := Setting{name, p.value(1)}
		for i := range settings {
			if settings[i].Name == name {
				settings[i] = setting
				return
			}
		}
		settings = append(settings, setting)
	}, '}')
	return settings
}

// members skips a bracket and reads what follows up to the closing one.
func (p *parser) members(member func(), closing byte) {
	p.at++
	p.space()
	if p.accept(closing) {
		return
	}
	for p.err == nil {
		member()
		p.space()
		if p.accept(closing) {
			return
		}
		p.expect(',')
		p.space()
	}
}

// value reads a value that is in depth arrays and objects.
func (p *parser) value(depth int) Value {
	start := p.at
	v := Value{}
	switch c := p.next(); {
	case c == '"':
		v.Kind, v.Text = String, p.str()
	case c == '{', c == '[':
		v.Kind = p.nested(depth + 1)
	case c == '-', '0' <= c && c <= '9':
		v.Kind = Number
		p.number()
	case c == 't':
		v.Kind = Bool
		p.word("true")
	case c == 'f':
		v.Kind = Bool
		p.word("false")
	case c == 'n':
		p.word("null")
	default:
		p.unexpected()
	}
	v.JSON = p.text[start:p.at]
	return v
}

// nested skips an array or an object.
func (p *parser) nested(depth int) Kind {
	if depth > maxDepth {
		p.fail(errors.New("it is nested too deeply"))
		return Null
	}
	if p.next() == '[' {
		p.members(func() { p.value(depth) }, ']')
		return Array
	}
	p.members(func() {
		p.str()
		p.space()
		p.expect(':')
		p.space()
		p.value(depth)
	}, '}')
	return Object
}

func (p *parser) word(word string) {
	for i := range len(word) {
		p.expect(word[i])
	}
}

// number skips a number.
func (p *parser) number() {
	p.accept('-')
	if !p.accept('0') {
		p.digits()
	}
	if p.accept('.') {
		p.digits()
	}
	if p.accept('e') || p.accept('E') {
		_ = p.accept('+') || p.accept('-')
		p.digits()
	}
}

// digits skips one digit or more.
func (p *parser) digits() {
	start := p.at
	for c := p.next(); '0' <= c && c <= '9'; c = p.next() {
		p.at++
	}
	if p.at == start {
		p.unexpected()
	}
}

// str reads a string. What is not UTF-8 is replaced by U+FFFD.
func (p *parser) str() string {
	p.expect('"')
	var text []byte
	for {
		switch c := p.next(); {
		case p.accept('"'):
			return string(text)
		case c < ' ': // or the end
			p.unexpected()
			return ""
		case p.accept('\\'):
			text = p.escape(text)
		case c < utf8.RuneSelf:
			text = append(text, c)
			p.at++
		default:
			r, size := utf8.DecodeRuneInString(p.text[p.at:])
			text = utf8.AppendRune(text, r)
			p.at += size
		}
	}
}

// escape reads what follows a backslash.
func (p *parser) escape(text []byte) []byte {
	const escapes, meanings = `"\/bfnrt`, "\"\\/\b\f\n\r\t"
	if p.accept('u') {
		return utf8.AppendRune(text, p.unicode())
	}
	for i := range len(escapes) {
		if p.accept(escapes[i]) {
			return append(text, meanings[i])
		}
	}
	p.unexpected()
	return text
}

// unicode reads the four digits after \u, and the second half of a surrogate pair.
func (p *parser) unicode() rune {
	r := p.hex()
	if !utf16.IsSurrogate(r) {
		return r
	}
	start := p.at
	if p.accept('\\') && p.accept('u') {
		if pair := utf16.DecodeRune(r, p.hex()); pair != utf8.RuneError || p.err != nil {
			return pair
		}
	}
	p.at = start
	return utf8.RuneError
}

func (p *parser) hex() (r rune) {
	for range 4 {
		c := p.next()
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			p.unexpected()
			return 0
		}
		r = r<<4 | rune(c)
		p.at++
	}
	return r
}
