package git

import "strings"

// allowPruneKey is the trailer of a commit that may delete many policies.
const allowPruneKey = "hfi-allow-prune"

// allowsPrune says whether a commit's message has the trailer with the value true.
func allowsPrune(message string) bool {
	for _, trailer := range trailers(message) {
		key, value, _ := strings.Cut(trailer, ":")
		if strings.EqualFold(strings.TrimSpace(key), allowPruneKey) && strings.TrimSpace(value) == "true" {
			return true
		}
	}
	return false
}

// trailers returns the trailers, KEY: VALUE, that git interpret-trailers
// --no-divider finds; go-git has no function for it. They are in the last
// paragraph, if that is not the first. It must have trailers only, or a line
// that git itself writes and at least a quarter of trailers. A line that
// begins with white space continues the trailer before it, and is joined to it.
func trailers(message string) []string {
	lines := strings.Split(strings.TrimSuffix(message, "\n"), "\n")
	last := len(lines)
	for last > 0 && (blank(lines[last-1]) || comment(lines[last-1])) {
		last--
	}
	title := 0
	for title < last && (comment(lines[title]) || !blank(lines[title])) {
		title++
	}
	first, found, others, continuations, gits := last, 0, 0, 0, false
	for first--; first >= title && !blank(lines[first]); first-- {
		switch line := lines[first]; {
		case comment(line):
			others, continuations = others+continuations, 0
		case madeByGit(line):
			found, continuations, gits = found+1, 0, true
		case isTrailer(line):
			found, continuations = found+1, 0
		case continues(line):
			continuations++
		default:
			others, continuations = others+1+continuations, 0
		}
	}
	others += continuations
	if first < title || found == 0 || others > 0 && (!gits || 3*found < others) {
		return nil
	}
	// Each trailer's lines are joined once: there may be very many.
	var list []string
	var open []string
	end := func() {
		if open != nil {
			list, open = append(list, strings.Join(open, " ")), nil
		}
	}
	for _, line := range lines[first+1 : last] {
		switch {
		case comment(line):
		case isTrailer(line):
			end()
			open = []string{line}
		case continues(line) && open != nil:
			open = append(open, strings.TrimSpace(line))
		default:
			end()
		}
	}
	end()
	return list
}

func blank(line string) bool     { return strings.TrimSpace(line) == "" }
func comment(line string) bool   { return strings.HasPrefix(line, "#") }
func continues(line string) bool { return line != "" && strings.TrimLeft(line[:1], " \t\r\v\f") == "" }

// madeByGit says whether git itself writes lines of this form.
func madeByGit(line string) bool {
	return strings.HasPrefix(line, "Signed-off-by: ") || strings.HasPrefix(line, "(cherry picked from commit ")
}

// isTrailer says whether a line begins with a word of letters, digits and
// dashes, optional white space, and a colon.
func isTrailer(line string) bool {
	key, _, found := strings.Cut(line, ":")
	word := strings.TrimRight(key, " \t")
	if !found || word == "" {
		return false
	}
	for i := range len(word) {
		c := word[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
