// Package docs compares the repository's documents with the files and programs that
// they describe: link targets and named things exist, and commands print what the
// page says.
package docs

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	tables "github.com/yuin/goldmark/extension/ast"
	"github.com/yuin/goldmark/text"

	"github.com/boifi/hfi/internal/gittest"
	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

func TestMain(m *testing.M) { os.Exit(hfidtest.Main(m)) }

// tracked returns the repository's files, including those not added yet, by their
// paths from its root.
var tracked = sync.OnceValues(func() ([]string, error) {
	command := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	command.Dir, command.Env = testtool.Root(), gittest.Environment()
	out, err := command.Output()
	if err != nil {
		return nil, err
	}
	var files []string
	for file := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		// Stat also makes the file an input of the test for the go command's cache.
		if _, err := os.Stat(filepath.Join(testtool.Root(), file)); err == nil {
			files = append(files, file)
		}
	}
	return files, nil
})

// tree returns every file and folder of the repository, by its path from the root.
func tree(t *testing.T) map[string]bool {
	t.Helper()
	files, err := tracked()
	if err != nil {
		t.Fatalf("listing the repository's files: %v", err)
	}
	all := map[string]bool{".": true}
	for _, file := range files {
		for ; !all[file]; file = path.Dir(file) {
			all[file] = true
		}
	}
	return all
}

// page is a Markdown document.
type page struct {
	// file is relative to the repository's root.
	file   string
	source []byte
	root   ast.Node
}

func pages(t *testing.T) []*page {
	t.Helper()
	files, err := tracked()
	if err != nil {
		t.Fatalf("listing the repository's files: %v", err)
	}
	var all []*page
	for _, file := range files {
		if path.Ext(file) == ".md" {
			all = append(all, readPage(t, file))
		}
	}
	if len(all) < 10 {
		t.Fatalf("the repository has only %d documents", len(all))
	}
	return all
}

func readPage(t *testing.T, file string) *page {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(testtool.Root(), file))
	if err != nil {
		t.Fatal(err)
	}
	parser := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser()
	return &page{file: file, source: source, root: parser.Parse(text.NewReader(source))}
}

// walk visits each node of a document once, in order.
func (p *page) walk(visit func(node ast.Node)) {
	_ = ast.Walk(p.root, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			visit(node)
		}
		return ast.WalkContinue, nil
	})
}

// words returns the text of a node, without markup.
func (p *page) words(node ast.Node) string {
	var words bytes.Buffer
	_ = ast.Walk(node, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if part, ok := node.(*ast.Text); ok && entering {
			words.Write(part.Segment.Value(p.source))
			if part.SoftLineBreak() {
				words.WriteByte(' ')
			}
		}
		return ast.WalkContinue, nil
	})
	return words.String()
}

// block is a fenced block of a document.
type block struct {
	// heading is the heading of its section.
	heading, language, content string
}

func (p *page) blocks() []block {
	var blocks []block
	heading := ""
	p.walk(func(node ast.Node) {
		switch node := node.(type) {
		case *ast.Heading:
			heading = p.words(node)
		case *ast.FencedCodeBlock:
			var content strings.Builder
			for i := range node.Lines().Len() {
				line := node.Lines().At(i)
				content.Write(line.Value(p.source))
			}
			blocks = append(blocks, block{heading, string(node.Language(p.source)), content.String()})
		}
	})
	return blocks
}

// spans returns the texts in backticks in groups: those of one paragraph, of one
// cell of a table, or of one item of a list.
func (p *page) spans() [][]string {
	var groups [][]string
	var last ast.Node
	p.walk(func(node ast.Node) {
		if node.Kind() != ast.KindCodeSpan {
			return
		}
		parent := node.Parent()
		for parent.Type() == ast.TypeInline {
			parent = parent.Parent()
		}
		if parent != last {
			groups, last = append(groups, nil), parent
		}
		groups[len(groups)-1] = append(groups[len(groups)-1], p.words(node))
	})
	return groups
}

// tableHeads returns the texts in backticks of each row's first cell.
func (p *page) tableHeads() [][]string {
	var heads [][]string
	p.walk(func(node ast.Node) {
		if node.Kind() != tables.KindTableRow {
			return
		}
		var texts []string
		_ = ast.Walk(node.FirstChild(), func(node ast.Node, entering bool) (ast.WalkStatus, error) {
			if entering && node.Kind() == ast.KindCodeSpan {
				texts = append(texts, p.words(node))
			}
			return ast.WalkContinue, nil
		})
		heads = append(heads, texts)
	})
	return heads
}
