package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
)

// format is the value of --output.
type format struct {
	// kind is one of formats; the zero value is table.
	kind string
	// path is the expression of jsonpath.
	path *jsonpath.JSONPath
}

// The formats. Table and wide are for people.
const (
	tableFormat    = "table"
	wideFormat     = "wide"
	nameFormat     = "name"
	jsonFormat     = "json"
	yamlFormat     = "yaml"
	jsonpathFormat = "jsonpath"
)

var formats = []string{tableFormat, wideFormat, nameFormat, jsonFormat, yamlFormat, jsonpathFormat + "="}

func (f *format) String() string { return or(f.kind, tableFormat) }

func (f *format) Set(text string) error {
	kind, expression, given := strings.Cut(text, "=")
	switch {
	case kind == jsonpathFormat:
		if expression == "" {
			return errors.New("jsonpath requires an expression, such as jsonpath='{.sync.status}'")
		}
		if !strings.Contains(expression, "{") {
			expression = "{." + strings.TrimPrefix(expression, ".") + "}"
		}
		f.path = jsonpath.New("output").AllowMissingKeys(true)
		if err := f.path.Parse(expression); err != nil {
			return fmt.Errorf("jsonpath: %w", err)
		}
	case given || !slices.Contains(formats, kind):
		return fmt.Errorf("must be one of %sEXPRESSION", strings.Join(formats, ", "))
	}
	f.kind = kind
	return nil
}

func (f *format) Type() string { return "format" }

// forPeople reports whether the output is a table or text.
func (f *format) forPeople() bool {
	return f.String() == tableFormat || f.String() == wideFormat
}

// withNames marks a command that can print -o name.
const withNames = "names"

// names prints names one a line with -o name, and returns true; otherwise it returns false.
func (a *app) names(names []string) (done bool, err error) {
	if a.output.String() != nameFormat {
		return false, nil
	}
	for _, name := range names {
		if _, err := fmt.Fprintln(a.stdout, clean(name)); err != nil {
			return true, err
		}
	}
	return true, nil
}

// raw prints a JSON text in a format for programs and returns true; for a table it
// returns false, and the caller prints it.
func (a *app) raw(text []byte) (done bool, err error) {
	switch a.output.String() {
	case jsonpathFormat:
		var value any
		if err := utiljson.Unmarshal(text, &value); err != nil {
			return true, fmt.Errorf("reading the answer: %w", err)
		}
		var found bytes.Buffer
		if err := a.output.path.Execute(&found, value); err != nil {
			return true, fmt.Errorf("-o jsonpath: %w", err)
		}
		_, err := fmt.Fprintln(a.stdout, a.shown(strings.TrimSuffix(found.String(), "\n")))
		return true, err
	case jsonFormat:
		_, err = fmt.Fprintf(a.stdout, "%s\n", escapeJSON(bytes.TrimRight(text, "\n")))
		return true, err
	case yamlFormat:
		converted, err := yaml.JSONToYAML(escapeJSON(text)) // The parser accepts no raw control characters.
		if err != nil {
			return true, fmt.Errorf("writing the answer as YAML: %w", err)
		}
		_, err = io.WriteString(a.stdout, a.shown(string(converted)))
		return true, err
	}
	return false, nil
}

// value prints a value in a format for programs, as raw does.
func (a *app) value(value any) (done bool, err error) {
	if a.output.forPeople() {
		return false, nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return true, fmt.Errorf("writing the answer as JSON: %w", err)
	}
	return a.raw(text.Bytes())
}

// Between two columns of a table, and the least width that a column is cut to.
const (
	columnGap = 3
	minColumn = 10
)

// table prints rows in columns under a heading. On a terminal that is too narrow,
// the widest columns are cut, unless the output is wide.
func (a *app) table(heading []string, rows [][]string) error {
	text := &bytes.Buffer{}
	columns := tabwriter.NewWriter(text, 0, 0, columnGap, ' ', 0)
	var cells [][]string
	for _, row := range append([][]string{heading}, rows...) {
		cleaned := make([]string, len(row))
		for i, cell := range row {
			cleaned[i] = or(clean(cell), "-")
		}
		cells = append(cells, cleaned)
	}
	if width := terminalWidth(a.stdout); width > 0 && a.output.String() != wideFormat {
		cutColumns(cells, width)
	}
	for _, row := range cells {
		fmt.Fprintln(columns, strings.Join(row, "\t"))
	}
	if err := columns.Flush(); err != nil {
		return err
	}
	// Colour comes last: tabwriter would count escape sequences as width.
	head, rest, _ := strings.Cut(text.String(), "\n")
	_, err := fmt.Fprintf(a.stdout, "%s\n%s", a.paint(bold, head), rest)
	return err
}

// warn prints a warning on standard error.
func (a *app) warn(pattern string, args ...any) {
	fmt.Fprintln(a.stderr, a.paintErr(yellow, clean("warning: "+fmt.Sprintf(pattern, args...))))
}

// cutColumns shortens the widest columns of a table until its lines fit a width, if they can.
func cutColumns(rows [][]string, width int) {
	widths := make([]int, len(rows[0]))
	total := columnGap * (len(widths) - 1)
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
		total += widths[i]
	}
	for ; total > width; total-- {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= minColumn {
			break
		}
		widths[widest]--
	}
	for _, row := range rows {
		for i, cell := range row {
			if runes := []rune(cell); len(runes) > widths[i] {
				row[i] = string(runes[:widths[i]-1]) + "…"
			}
		}
	}
}

// terminalWidth is the width of a terminal in characters, or 0 if a writer is none.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(w.(*os.File).Fd()))
	if err != nil {
		return 0
	}
	return width
}

// colour is the number of an ANSI colour or attribute.
type colour string

const (
	bold   colour = "1"
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint colours a text if standard output is a terminal.
func (a *app) paint(c colour, text string) string    { return paint(a.stdout, c, text) }
func (a *app) paintErr(c colour, text string) string { return paint(a.stderr, c, text) }

func paint(w io.Writer, c colour, text string) string {
	if os.Getenv("NO_COLOR") != "" || !isTerminal(w) {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

// isTerminal reports whether a writer is a terminal that understands escape sequences.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}

// clean replaces control characters: names, subjects and messages come from other
// people's commits, and must not control the terminal.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if controls(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// shown is a text of several lines as standard output gets it: a program gets it as it
// is, and a terminal without control characters.
func (a *app) shown(text string) string {
	if !isTerminal(a.stdout) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if controls(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// controls reports whether a character may control a terminal or change the order of a line.
func controls(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// escapeJSON returns a JSON text with the same value in which no character controls a
// terminal. JSON requires escapes only for those below U+0020.
func escapeJSON(text []byte) []byte {
	if !bytes.ContainsFunc(text, func(r rune) bool { return r >= ' ' && controls(r) }) {
		return text
	}
	var escaped bytes.Buffer
	for _, r := range string(text) {
		if r >= ' ' && controls(r) {
			fmt.Fprintf(&escaped, `\u%04x`, r)
		} else {
			escaped.WriteRune(r)
		}
	}
	return escaped.Bytes()
}

// short abbreviates a commit's hash.
func short(hash string) string {
	if len(hash) > 12 {
		return hash[:12]
	}
	return hash
}

// ago formats how long ago something was, in one unit.
func ago(now time.Time, at *time.Time) string {
	if at == nil || at.IsZero() {
		return "never"
	}
	return max(now.Sub(*at), 0).Truncate(time.Second).String() + " ago"
}

// plural is "1 policy" or "2 policies".
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// fit truncates a line to the terminal's width, so that it can be rewritten.
func fit(line string, w io.Writer) string {
	width := terminalWidth(w)
	if runes := []rune(line); width > 1 && len(runes) >= width {
		return string(runes[:width-1])
	}
	return line
}
