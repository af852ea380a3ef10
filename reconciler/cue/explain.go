package cue

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
	"google.golang.org/grpc/codes"

	"github.com/boifi/hfi/schema"
)

var (
	// loneCR matches the end of a line in the format of old Macs.
	loneCR = regexp.MustCompile(`\r(?:[^\n]|$)`)
	// surrogateEscape matches the escape of a half of a surrogate pair.
	surrogateEscape = regexp.MustCompile(`\\u[dD][89a-fA-F][0-9a-fA-F]{2}`)
	badOctal        = regexp.MustCompile(`^cannot decode "0o([0-9._]+)" as !!float`)
)

// explainYAML replaces the message of a YAML decoder by one that says what to do, if
// it is a common error.
func explainYAML(content []byte, problem *schema.Problem) {
	at := func(offset int, message string) {
		problem.Line, problem.Column = place(content, offset)
		problem.Message = "invalid YAML: " + message
	}
	if found := loneCR.FindIndex(content); found != nil {
		at(found[0], "this line ends in a carriage return without a line feed; save the file with LF line ends")
		return
	}
	if tab := indentingTab(content, problem.Line); tab >= 0 && (strings.Contains(problem.Message, "cannot start any token") || strings.Contains(problem.Message, "tab character")) {
		at(tab, "a tab cannot indent; use spaces")
		return
	}
	if found := surrogateEscape.FindIndex(content); found != nil && strings.Contains(problem.Message, "Unicode character escape") {
		at(found[0], halfSurrogate(string(content[found[0]:found[1]])))
		return
	}
	if found := badOctal.FindStringSubmatch(strings.TrimPrefix(problem.Message, "invalid YAML: ")); found != nil {
		problem.Message = fmt.Sprintf("invalid YAML: the number 0%s begins with 0, as an octal number does; write %s", found[1], found[1])
	}
}

// indentingTab returns the offset of the first tab in the indentation of a line or of
// the next one, or -1. The decoder's line may be the one before.
func indentingTab(content []byte, line int) int {
	offset, number := 0, 1
	for text := range bytes.Lines(content) {
		indentation := text[:len(text)-len(bytes.TrimLeft(text, " \t"))]
		if tab := bytes.IndexByte(indentation, '\t'); tab >= 0 && (number == line || number == line+1) {
			return offset + tab
		}
		offset += len(text)
		number++
	}
	return -1
}

func halfSurrogate(escape string) string {
	return escape + " is only half of a UTF-16 surrogate pair, which is not a character; write the character itself"
}

// hasText reports whether a YAML file has more than comments and separators.
func hasText(content []byte) bool {
	for line := range bytes.Lines(content) {
		line = bytes.TrimSpace(bytes.TrimPrefix(line, byteOrderMark))
		for _, mark := range []string{"---", "...", "%"} {
			line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte(mark)))
		}
		if len(line) > 0 && line[0] != '#' {
			return true
		}
	}
	return false
}

// isEmpty reports whether nothing is written where a document of a YAML file is: not even null.
func isEmpty(content []byte, document ast.Expr) bool {
	if x, ok := document.(*ast.BasicLit); !ok || x.Kind != token.NULL {
		return false
	}
	line, column := nodePlace(document)
	for text := range bytes.Lines(content) {
		if line--; line == 0 {
			rest := bytes.ToLower(text[min(column-1, len(text)):])
			return !bytes.HasPrefix(rest, []byte("null")) && !bytes.HasPrefix(rest, []byte("~"))
		}
	}
	return true
}

// loneSurrogate returns the offset of the first escape of a half of a surrogate pair
// in a valid JSON text, or -1. Go replaces it by U+FFFD, and cue rejects it.
func loneSurrogate(content []byte) int {
	half := func(at int) uint64 {
		if at+6 > len(content) || content[at] != '\\' || content[at+1] != 'u' {
			return 0
		}
		unit, _ := strconv.ParseUint(string(content[at+2:at+6]), 16, 16)
		return unit >> 10 << 10
	}
	const high, low = 0xd800, 0xdc00
	for at := 0; at < len(content); at++ {
		switch {
		case content[at] != '\\':
		case half(at) == high && half(at+6) == low:
			at += 11
		case half(at) == high || half(at) == low:
			return at
		default:
			at++ // the escaped character, which may be a backslash
		}
	}
	return -1
}

// foreignGroup matches the group of an object of Kubernetes, with its version.
var foreignGroup = regexp.MustCompile(`^(v1|[a-z0-9-]+(\.[a-z0-9-]+)+/v[0-9a-z]+|(apps|batch|policy|autoscaling|extensions)/v[0-9a-z]+)$`)

// foreign returns a problem for an invalid document that is not meant to be a policy:
// an object of another kind of Kubernetes or one of its extensions, without a rule of a policy.
func foreign(document ast.Expr) *schema.Problem {
	text := func(name string) string {
		field, value, _ := node(document, fieldPath{name})
		if x, ok := value.(*ast.BasicLit); ok && field != nil && x.Kind == token.STRING {
			text, _ := literal.Unquote(x.Value)
			return text
		}
		return ""
	}
	version, kind := text("apiVersion"), text("kind")
	if !foreignGroup.MatchString(version) || kind == "" || strings.HasPrefix(version, "hfi") || isMeantAsPolicy(document) {
		return nil
	}
	return problemAt(document, fmt.Sprintf("this is a Kubernetes object of kind %s (%s), not a fault policy; keep it outside of the policy folder",
		quote(kind), version))
}

// isMeantAsPolicy reports whether an invalid document has rules of a policy, or a
// field that only a fault has: its apiVersion and kind may be any.
func isMeantAsPolicy(document ast.Expr) bool {
	_, rules, _ := node(document, fieldPath{"spec", "rules"})
	list, ok := rules.(*ast.ListLit)
	if !ok || len(list.Elts) == 0 {
		return rules != nil || hasFaultField(document)
	}
	for _, rule := range list.Elts {
		fault, _, _ := node(rule, fieldPath{"fault"})
		match, _, _ := node(rule, fieldPath{"match"})
		if _, ok := rule.(*ast.StructLit); !ok || fault != nil || match != nil {
			return true
		}
	}
	return hasFaultField(document)
}

// hasFaultField reports whether delay_ms, grpc_status or abort.status is anywhere in a value.
func hasFaultField(value ast.Expr) bool {
	switch x := value.(type) {
	case *ast.StructLit:
		for _, decl := range x.Elts {
			f, ok := decl.(*ast.Field)
			if !ok {
				continue
			}
			status, _, _ := node(f.Value, fieldPath{"status"})
			switch name := labelOf(f); {
			case name == "delay_ms", name == "grpc_status", name == "abort" && status != nil, hasFaultField(f.Value):
				return true
			}
		}
	case *ast.ListLit:
		return slices.ContainsFunc(x.Elts, hasFaultField)
	}
	return false
}

// The functions below return a clause that says what to write in place of a wrong
// value, or "". The value is given as a text, without quotes.

// inMilliseconds is for a delay with a unit, or with another form of number.
func inMilliseconds(text string) string {
	plain := strings.ToLower(strings.NewReplacer(" ", "", "_", "").Replace(text))
	if plain == "" || plain[0] < '0' || plain[0] > '9' {
		return ""
	}
	duration, err := time.ParseDuration(plain)
	if err != nil {
		number, err := strconv.ParseFloat(plain, 64)
		if err != nil || !(1 <= number && number <= 3_600_000) {
			return "the unit is milliseconds"
		}
		duration = time.Duration(number * float64(time.Millisecond))
	}
	if ms := duration.Milliseconds(); duration%time.Millisecond == 0 && 1 <= ms && ms <= 3_600_000 {
		return fmt.Sprintf("write %d (milliseconds)", ms)
	}
	return "the unit is milliseconds"
}

var percent = regexp.MustCompile(`^ *(100(?:\.0+)?|[1-9]?\d(?:\.\d{1,4})?) *%? *$`)

// inPercent is for a percentage with a percent sign or in quotes.
func inPercent(text string) string {
	if found := percent.FindStringSubmatch(text); found != nil {
		return "write " + found[1]
	}
	return ""
}

var digits = regexp.MustCompile(`^[1-9]\d{0,6}$`)

// unquotedNumber is for a whole number in quotes.
func unquotedNumber(text string) string {
	if digits.MatchString(text) {
		return "write " + text + " without quotes"
	}
	return ""
}

// grpcStatus is for the name of a gRPC status.
func grpcStatus(text string) string {
	var code codes.Code
	if name := strings.ToUpper(text); isPlainName(name) && code.UnmarshalJSON([]byte(strconv.Quote(name))) == nil {
		return fmt.Sprintf("write %d", code)
	}
	return unquotedNumber(text)
}

// trueOrFalse is for other words.
func trueOrFalse(text string) string {
	switch strings.ToLower(text) {
	case "yes", "y", "on", "true", "1":
		return "write true"
	case "no", "n", "off", "false", "0":
		return "write false"
	}
	return ""
}

// direction is for other words for the two directions.
func direction(text string) string {
	switch strings.ToLower(text) {
	case "inbound", "in", "ingress", "server", "sidecar_inbound":
		return "write inbound"
	case "outbound", "out", "egress", "client", "sidecar_outbound":
		return "write outbound"
	}
	return ""
}

// serviceAndNamespace is for the DNS name of a service.
func serviceAndNamespace(text string) string {
	parts := strings.Split(text, ".")
	switch {
	case len(parts) == 2 && parts[0] != "" && parts[1] != "" || len(parts) > 2 && parts[2] == "svc":
		return fmt.Sprintf("write service: %s and namespace: %s", quote(parts[0]), quote(parts[1]))
	case len(parts) > 2:
		return "for a DNS name write host"
	}
	return ""
}

var (
	scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://`)
	port   = regexp.MustCompile(`:\d+$`)
	host   = regexp.MustCompile(`^[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?(\.[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?)*$`)
)

// hostOnly is for a URL, or a host with a port.
func hostOnly(text string) string {
	name := scheme.ReplaceAllString(strings.ToLower(text), "")
	name, _, _ = strings.Cut(name, "/")
	name = strings.TrimSuffix(port.ReplaceAllString(name, ""), ".")
	if name != text && host.MatchString(name) {
		return "write " + name
	}
	return ""
}

var method = regexp.MustCompile(`^[A-Z-]+$`)

// upperCase is for an HTTP method in lower case.
func upperCase(text string) string {
	if upper := strings.ToUpper(text); upper != text && method.MatchString(upper) {
		return "write " + quote(upper)
	}
	return ""
}

// whyNotRE2 is for a regular expression.
func whyNotRE2(text string) string {
	for _, feature := range []struct{ marker, name string }{
		{"(?=", "lookahead"}, {"(?!", "lookahead"}, {"(?<=", "lookbehind"}, {"(?<!", "lookbehind"}, {"(?>", "atomic groups"},
		{`\1`, "backreferences"}, {`\2`, "backreferences"},
	} {
		if strings.Contains(text, feature.marker) {
			return "RE2 has no " + feature.name
		}
	}
	var invalid *syntax.Error
	if _, err := syntax.Parse(text, syntax.Perl); errors.As(err, &invalid) {
		return fmt.Sprintf("%s: %s", invalid.Code, quote(invalid.Expr))
	}
	return ""
}
