package docs

import (
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"
	"unicode"

	"github.com/yuin/goldmark/ast"
)

// A link inside the repository leads to an existing file or folder and, if it has
// an anchor, to an existing heading.
func TestLinksLeadSomewhere(t *testing.T) {
	all := tree(t)
	anchors := map[string]map[string]bool{}
	documents := pages(t)
	for _, p := range documents {
		anchors[p.file] = p.anchors()
	}
	checked := 0
	for _, p := range documents {
		p.walk(func(node ast.Node) {
			destination := ""
			switch node := node.(type) {
			case *ast.Link:
				destination = string(node.Destination)
			case *ast.Image:
				destination = string(node.Destination)
			}
			target, err := url.Parse(destination)
			if err != nil {
				t.Errorf("%s links to %q: %v", p.file, destination, err)
				return
			}
			if destination == "" || target.Scheme != "" {
				return
			}
			checked++
			file := p.file
			if target.Path != "" {
				file = path.Join(path.Dir(p.file), target.Path)
			}
			if !all[file] {
				t.Errorf("%s links to %s, which does not exist", p.file, destination)
			} else if known, document := anchors[file]; document && target.Fragment != "" && !known[target.Fragment] {
				t.Errorf("%s links to %s, but %s has no such heading", p.file, destination, file)
			}
		})
	}
	if checked < 50 {
		t.Errorf("only %d links were checked: are links still found?", checked)
	}
}

// anchors returns the anchors that GitHub generates for a document's headings.
func (p *page) anchors() map[string]bool {
	anchors := map[string]bool{}
	p.walk(func(node ast.Node) {
		if node.Kind() != ast.KindHeading {
			return
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, p.words(node))
		unique := name
		for i := 1; anchors[unique]; i++ {
			unique = fmt.Sprintf("%s-%d", name, i)
		}
		anchors[unique] = true
	})
	return anchors
}

// Every document can be reached within two clicks from the README.
func TestTheReadmeLeadsToEveryDocument(t *testing.T) {
	clicks := map[string]int{"README.md": 0}
	queue := []string{"README.md"}
	for len(queue) > 0 {
		p := readPage(t, queue[0])
		queue = queue[1:]
		p.walk(func(node ast.Node) {
			link, ok := node.(*ast.Link)
			if !ok {
				return
			}
			target, err := url.Parse(string(link.Destination))
			if err != nil || target.Scheme != "" || target.Path == "" {
				return
			}
			file := path.Join(path.Dir(p.file), target.Path)
			if _, seen := clicks[file]; seen {
				return
			}
			clicks[file] = clicks[p.file] + 1
			if path.Ext(file) == ".md" && tree(t)[file] {
				queue = append(queue, file)
			}
		})
	}
	wanted := []string{"LICENSE"}
	for _, p := range pages(t) {
		// hfi init writes its documents into another repository, and GitHub finds its templates itself.
		if !strings.HasPrefix(p.file, "schema/scaffold/") && !strings.HasPrefix(p.file, ".github/") {
			wanted = append(wanted, p.file)
		}
	}
	for _, file := range wanted {
		if distance, found := clicks[file]; !found || distance > 2 {
			t.Errorf("%s is not within two clicks of README.md", file)
		}
	}
}
