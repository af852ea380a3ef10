package http

import "strings"

// tags are the entity tags of an If-None-Match header. Package net/http parses
// them too, but does not export it.
type tags struct {
	any  bool
	list []string
}

// match is the weak comparison, which If-None-Match requires.
func (t tags) match(tag string) bool {
	for _, own := range t.list {
		if own == tag {
			return true
		}
	}
	return t.any
}

func quote(tag string) string { return `"` + tag + `"` }

// parseTags returns an error for a malformed header: if it were ignored, every
// wait of that client would be answered at once, in an endless loop.
func parseTags(headers []string) (tags, error) {
	var t tags
	rest := strings.TrimSpace(strings.Join(headers, ","))
	if rest == "" {
		if len(headers) > 0 {
			return t, malformedTags()
		}
		return t, nil
	}
	if rest == "*" {
		return tags{any: true}, nil
	}
	for {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return t, nil
		}
		quoted, found := strings.CutPrefix(strings.TrimPrefix(rest, "W/"), `"`)
		tag, after, closed := strings.Cut(quoted, `"`)
		if after = strings.TrimLeft(after, " \t"); !found || !closed || after != "" && after[0] != ',' {
			return t, malformedTags()
		}
		t.list = append(t.list, tag)
		rest = after
	}
}

func malformedTags() error {
	return badRequest(`the header If-None-Match must be *, or a list of quoted tags such as "v1:…"`)
}
