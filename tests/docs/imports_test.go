package docs

import (
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
	tables "github.com/yuin/goldmark/extension/ast"

	"github.com/boifi/hfi/internal/testtool"
)

const module = "github.com/boifi/hfi/"

// Imports point down the list of packages in docs/architecture.md: a package
// imports what stands in a later row, or what is below itself.
func TestImportsPointDown(t *testing.T) {
	ranks := packageRows(t)
	if len(ranks) < 12 {
		t.Fatalf("docs/architecture.md lists only %d packages", len(ranks))
	}
	// row finds the listed folder that a package belongs to.
	row := func(folder string) (listed string, rank int, found bool) {
		for ; folder != "."; folder = path.Dir(folder) {
			if rank, found := ranks[folder]; found {
				return folder, rank, true
			}
		}
		return "", 0, false
	}
	files, err := tracked()
	if err != nil {
		t.Fatalf("listing the repository's files: %v", err)
	}
	checked := 0
	for _, file := range files {
		from, rank, found := row(path.Dir(file))
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || !found {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(testtool.Root(), file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil || !strings.HasPrefix(imported, module) {
				continue
			}
			to, below, listed := row(strings.TrimPrefix(imported, module))
			checked++
			if listed && to != from && below <= rank {
				t.Errorf("%s imports %s, which docs/architecture.md does not list below %s", file, to, from)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d imports were checked: are they still found?", checked)
	}
}

// packageRows are the folders that the list of packages links to in its first
// column, each with the number of its row.
func packageRows(t *testing.T) map[string]int {
	t.Helper()
	p := readPage(t, "docs/architecture.md")
	rows := map[string]int{}
	heading, number := "", 0
	p.walk(func(node ast.Node) {
		switch node := node.(type) {
		case *ast.Heading:
			heading = p.words(node)
		case *tables.TableRow:
			if heading != "Packages" {
				return
			}
			number++
			_ = ast.Walk(node.FirstChild(), func(node ast.Node, entering bool) (ast.WalkStatus, error) {
				if link, ok := node.(*ast.Link); ok && entering {
					rows[path.Join("docs", string(link.Destination))] = number
				}
				return ast.WalkContinue, nil
			})
		}
	})
	return rows
}
