package cue

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/boifi/hfi/schema"
)

// surprising matches the texts that may make yamlWarnings return something.
var surprising = regexp.MustCompile(`<<|\b0[0-9_]`)

// yamlWarnings returns a warning for each value of a YAML file that probably is not
// what its author meant, though the file is valid: numbers that YAML reads as octal,
// and values that a merge key replaces. (In YAML a key counts more than a merge key
// anywhere in its mapping. In cue vet, and so in hfi, the later one counts.)
func yamlWarnings(content []byte, limits Limits) (warnings []schema.Problem) {
	defer func() {
		if recover() != nil { // as in extract
			warnings = nil
		}
	}()
	content = bytes.TrimPrefix(content, byteOrderMark)
	if !surprising.Match(content) || expansion(content, limits) != nil {
		return nil
	}
	w := yamlWalk{depth: limits.MaxDepth}
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	for len(w.warnings) < maxFindings {
		var document yaml.Node
		if err := decoder.Decode(&document); err != nil {
			break // the end, or an error that is reported anyway
		}
		for _, content := range document.Content {
			w.walk(content, nil)
		}
	}
	return w.warnings[:min(len(w.warnings), maxFindings)]
}

// yamlWalk visits each value of a document where it is written, not behind aliases, and
// none below the depth that a file may have.
type yamlWalk struct {
	depth    int
	warnings []schema.Problem
}

func (w *yamlWalk) warn(at *yaml.Node, p fieldPath, format string, args ...any) {
	w.warnings = append(w.warnings, schema.Problem{
		Line: max(at.Line, 1), Column: max(at.Column, 1), Field: p.String(), Message: fmt.Sprintf(format, args...),
	})
}

func (w *yamlWalk) walk(node *yaml.Node, p fieldPath) {
	if len(p) > w.depth {
		return
	}
	switch node.Kind {
	case yaml.MappingNode:
		w.mapping(node, p)
	case yaml.SequenceNode:
		for i, item := range node.Content {
			w.walk(item, append(slices.Clone(p), strconv.Itoa(i)))
		}
	case yaml.ScalarNode:
		w.scalar(node, p)
	}
}

// scalar warns of a number whose octal value differs from the decimal one.
func (w *yamlWalk) scalar(node *yaml.Node, p fieldPath) {
	digits := strings.ReplaceAll(node.Value, "_", "")
	if !strings.HasPrefix(digits, "0") || node.ShortTag() != "!!int" {
		return
	}
	octal, err := strconv.ParseUint(digits, 8, 63)
	decimal, decimalErr := strconv.ParseUint(digits, 10, 63)
	if err != nil || decimalErr != nil || octal == decimal {
		return
	}
	w.warn(node, p, "%s is %d: YAML reads %s as octal, because it begins with 0; write %d", nameIn(p), octal, quote(node.Value), decimal)
}

// yamlValue is the value of a key so far.
type yamlValue struct {
	node   *yaml.Node
	merged bool
}

// mapping warns of keys whose value is replaced, as cue does it.
func (w *yamlWalk) mapping(node *yaml.Node, p fieldPath) {
	values := map[string]yamlValue{}
	replaced := map[string]func(){}
	merges := 0
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if isMergeKey(key) {
			merges++
			for name, source := range mergedValues(value) {
				old, given := values[name]
				values[name] = yamlValue{source, true}
				if !given || sameScalar(old.node, source) {
					continue
				}
				at := append(slices.Clone(p), name)
				replaced[name] = func() {
					remedy := "write << before the other keys"
					if old.merged {
						remedy = "write one merge key with a list, such as <<: [*a, *b], of which the first counts"
					}
					w.warn(key, at, "%s, from the merge key << after it, and not %s; %s", nameIn(at)+" is "+showYAML(source), showYAML(old.node), remedy)
				}
			}
			continue
		}
		at := append(slices.Clone(p), key.Value)
		old, given := values[key.Value]
		if given && !old.merged && merges > 0 && !sameScalar(old.node, value) {
			// Without a merge key, cue rejects this.
			replaced[key.Value] = func() {
				w.warn(key, at, "%s is set twice: it is %s, and not %s; remove one", nameIn(at), showYAML(value), showYAML(old.node))
			}
		} else {
			delete(replaced, key.Value)
		}
		values[key.Value] = yamlValue{value, false}
		w.walk(value, at)
	}
	for _, warn := range replaced {
		warn()
	}
}

func isMergeKey(key *yaml.Node) bool {
	return key.Kind == yaml.ScalarNode && key.Value == "<<" && (key.Tag == "" || key.Tag == "!" || key.ShortTag() == "!!merge")
}

// mergedValues returns what a merge key adds to its mapping. The aliases in it have
// been bounded by expansion.
func mergedValues(node *yaml.Node) map[string]*yaml.Node {
	values := map[string]*yaml.Node{}
	var add func(node *yaml.Node)
	add = func(node *yaml.Node) {
		switch node.Kind {
		case yaml.AliasNode:
			add(node.Alias)
		case yaml.SequenceNode:
			for _, item := range slices.Backward(node.Content) {
				add(item)
			}
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if isMergeKey(node.Content[i]) {
					add(node.Content[i+1])
				} else {
					values[node.Content[i].Value] = node.Content[i+1]
				}
			}
		}
	}
	add(node)
	return values
}

// sameScalar reports whether both are the same, or scalars with equal texts.
func sameScalar(a, b *yaml.Node) bool {
	return a == b || a.Kind == yaml.ScalarNode && b.Kind == yaml.ScalarNode && a.Value == b.Value && a.ShortTag() == b.ShortTag()
}

// showYAML formats a value for a message.
func showYAML(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode {
		return fmt.Sprintf("the value on line %d", node.Line)
	}
	if tag := node.ShortTag(); tag == "!!str" || len(node.Value) > 40 {
		return quote(node.Value)
	}
	return node.Value
}

// nameIn returns the name of a field for the begin of a sentence.
func nameIn(p fieldPath) string {
	switch {
	case len(p) == 0:
		return "the policy"
	case endsInList(p[:len(p)-1]):
		return "this item of " + p[len(p)-2]
	case !isPlainName(p[len(p)-1]):
		return quote(p[len(p)-1])
	}
	return p[len(p)-1]
}

func isPlainName(name string) bool {
	return len(name) <= 40 && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' })
}
