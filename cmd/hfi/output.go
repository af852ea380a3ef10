package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// format is the value of --output.
type format string

var formats = []string{"table", "json", "yaml"}

func (f *format) String() string {
	if *f == "" {
		return formats[0]
	}
	return string(*f)
}

func (f *format) Set(text string) error {
	if !slices.Contains(formats, text) {
		return fmt.Errorf("must be one of %s", strings.Join(formats, ", "))
	}
	*f = format(text)
	return nil
}

func (f *format) Type() string { return "format" }

// raw prints a JSON text as JSON or YAML and returns true; with -o table it returns
// false, and the caller prints the table.
func (a *app) raw(text []byte) (done bool, err error) {
	switch a.output.String() {
	case "json":
		_, err = fmt.Fprintf(a.stdout, "%s\n", bytes.TrimRight(text, "\n"))
		return true, err
	case "yaml":
		converted, err := yaml.JSONToYAML(text)
		if err != nil {
			return true, fmt.Errorf("writing the answer as YAML: %w", err)
		}
		_, err = a.stdout.Write(converted)
		return true, err
	}
	return false, nil
}

// value prints a value as JSON or YAML, as raw does.
func (a *app) value(value any) (done bool, err error) {
	if a.output.String() == "table" {
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

// table prints rows in columns under a heading.
func (a *app) table(heading []string, rows [][]string) error {
	text := &bytes.Buffer{}
	columns := tabwriter.NewWriter(text, 0, 0, 3, ' ', 0)
	for _, row := range append([][]string{heading}, rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = clean(cell)
			if cell == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(columns, strings.Join(cells, "\t"))
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
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
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
	file, ok := w.(*os.File)
	if !ok {
		return line
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if runes := []rune(line); err == nil && width > 1 && len(runes) >= width {
		return string(runes[:width-1])
	}
	return line
}
