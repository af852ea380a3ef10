package docs

import (
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/yuin/goldmark/ast"
	tables "github.com/yuin/goldmark/extension/ast"

	"github.com/boifi/hfi/internal/testtool"
)

const module = "github.com/boifi/hfi/"

// layer is a group of packages with the same rule.
type layer struct {
	name string
	// packages are patterns in the form of path.Match, relative to the module.
	// A pattern that ends in /... matches a folder and everything below it.
	packages []string
	// imports are the names of the layers whose packages this layer may import.
	imports []string
	// together says that packages of this layer may import one another. A
	// package and the packages below its folder may always do so.
	together bool
}

// layers has every package of the module, in the first layer that matches it.
var layers = []layer{
	{name: "schema", packages: []string{"schema"}},
	{name: "scaffold", packages: []string{"schema/scaffold"}, imports: []string{"schema"}},
	{name: "link", packages: []string{"filter/compile/...", "filter/link/..."}},
	{name: "filter parts", packages: []string{"filter/*/..."}, imports: []string{"schema"}, together: true},
	{name: "filter", packages: []string{"filter"}, imports: []string{"schema", "filter parts", "api"}},

	{name: "api", packages: []string{"internal/api"}, imports: []string{"schema"}},
	{name: "api client", packages: []string{"internal/api/client"}, imports: []string{"schema", "api"}},
	{name: "test helpers", packages: []string{"internal/*test/...", "internal/testtool"}, imports: []string{"schema", "filter parts", "api", "internal"}, together: true},
	{name: "internal", packages: []string{"internal/*/..."}, imports: []string{"schema"}, together: true},

	{name: "domain", packages: []string{"reconciler"}, imports: []string{"schema", "filter parts", "api", "internal"}},
	{name: "served", packages: []string{"reconciler/served"}, imports: []string{"schema", "filter parts", "domain"}},
	{name: "fleet", packages: []string{"reconciler/fleet"}, imports: []string{"schema", "filter parts", "api", "internal", "served"}},
	{
		name: "CUE adapter", packages: []string{"reconciler/cue/..."},
		imports: []string{"schema", "filter parts", "internal", "domain"},
	},
	{
		name: "adapters", packages: []string{"reconciler/*/..."},
		imports: []string{"schema", "filter parts", "api", "internal", "fleet", "served", "domain"},
	},

	{
		name: "daemon", packages: []string{"cmd/hfid/..."},
		imports: []string{"schema", "filter parts", "api", "internal", "fleet", "served", "domain", "CUE adapter", "adapters"},
	},
	{
		name: "command line", packages: []string{"cmd/hfi/..."},
		imports: []string{"schema", "scaffold", "api", "api client", "internal", "CUE adapter"},
	},
	{name: "deploy", packages: []string{"deploy/..."}, imports: []string{"schema", "api", "api client", "internal"}},
	{
		name: "tests", packages: []string{"tests/..."}, together: true,
		imports: []string{"schema", "scaffold", "filter parts", "api", "api client", "internal", "test helpers", "fleet", "served", "domain", "CUE adapter", "adapters"},
	},
}

// exceptions are imports, as "FROM TO", that break a rule for the reason given.
var exceptions = map[string]string{
	"deploy/demo internal/envoytest": "the demo runs stock Envoys as the tests do",
	"deploy/demo internal/testtool":  "the demo runs the stock programs that make tools builds",
}

// layerOf is the layer of a package, or nil.
func layerOf(pkg string) *layer {
	for i := range layers {
		if slices.ContainsFunc(layers[i].packages, func(pattern string) bool { return matches(pattern, pkg) }) {
			return &layers[i]
		}
	}
	return nil
}

func matches(pattern, pkg string) bool {
	pattern, below := strings.CutSuffix(pattern, "/...")
	if steps := strings.Count(pattern, "/") + 1; below {
		if parts := strings.Split(pkg, "/"); len(parts) > steps {
			pkg = path.Join(parts[:steps]...)
		}
	}
	ok, err := path.Match(pattern, pkg)
	return ok && err == nil
}

// violation says what is wrong with an import, or is empty. Packages are
// relative to the module.
func violation(from, to string) string {
	source, target := layerOf(from), layerOf(to)
	switch {
	case source == nil:
		return fmt.Sprintf("%s belongs to no layer: add it to one", from)
	case target == nil:
		return fmt.Sprintf("%s belongs to no layer: add it to one", to)
	case slices.Contains(source.imports, target.name),
		source == target && (source.together || sameFolder(from, to)),
		exceptions[from+" "+to] != "":
		return ""
	case source == target:
		return fmt.Sprintf("%s imports %s: packages of the layer %q do not import one another", from, to, source.name)
	}
	return fmt.Sprintf("%s imports %s: the layer %q may not import the layer %q", from, to, source.name, target.name)
}

// sameFolder says whether two packages are in one folder of the second level,
// such as reconciler/etcd.
func sameFolder(a, b string) bool {
	first := func(pkg string) string {
		parts := strings.Split(pkg, "/")
		return path.Join(parts[:min(len(parts), 2)]...)
	}
	return first(a) == first(b)
}

// moduleImports reads, for each package of the module, which other packages of
// the module it imports outside its tests, for all operating systems and build
// tags.
func moduleImports(t *testing.T) map[string][]string {
	t.Helper()
	files, err := tracked()
	if err != nil {
		t.Fatalf("listing the repository's files: %v", err)
	}
	imports := map[string][]string{}
	for _, file := range files {
		if path.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "/testdata/") ||
			strings.HasPrefix(file, "tools/") { // other modules
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(testtool.Root(), file), nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		from := path.Dir(file)
		found := imports[from]
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if to, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(found, to) {
				found = append(found, to)
			}
		}
		imports[from] = found
	}
	return imports
}

// TestImportsPointOneWay checks every import between the module's packages: by
// the layers, and by the list of packages in docs/architecture.md, of which a
// package imports only packages of later rows, or below itself.
func TestImportsPointOneWay(t *testing.T) {
	imports := moduleImports(t)
	for _, needed := range []string{"schema", "filter", "filter/fault", "reconciler", "reconciler/cue", "cmd/hfi", "cmd/hfid"} {
		if _, ok := imports[needed]; !ok {
			t.Errorf("package %s was not found in the module", needed)
		}
	}
	rows := packageRows(t)
	if len(rows) < 12 {
		t.Fatalf("docs/architecture.md lists only %d packages", len(rows))
	}
	unused, checked := maps.Clone(exceptions), 0
	for _, from := range slices.Sorted(maps.Keys(imports)) {
		if layerOf(from) == nil {
			t.Errorf("%s belongs to no layer: add it to one", from)
		}
		above, row := listed(rows, from)
		for _, to := range imports[from] {
			delete(unused, from+" "+to)
			if problem := violation(from, to); problem != "" {
				t.Error(problem)
			}
			below, next := listed(rows, to)
			if above == "" || below == "" {
				continue
			}
			if checked++; above != below && next <= row {
				t.Errorf("%s imports %s, which docs/architecture.md does not list below %s", from, to, above)
			}
		}
	}
	if checked < 25 {
		t.Errorf("only %d imports are of listed packages: are they still found?", checked)
	}
	for exception := range unused {
		t.Errorf("the exception %q is not needed any more: remove it", exception)
	}
}

// listed is the folder in the list of packages that a package belongs to, and
// its row; the folder is empty if there is none.
func listed(rows map[string]int, pkg string) (folder string, row int) {
	for folder = pkg; folder != "."; folder = path.Dir(folder) {
		if row, found := rows[folder]; found {
			return folder, row
		}
	}
	return "", 0
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

// TestImportRules checks the rules on made-up imports.
func TestImportRules(t *testing.T) {
	for _, test := range []struct {
		from, to string
		allowed  bool
	}{
		{"schema", "internal/api", false},
		{"schema", "filter/selection", false},
		{"schema", "schema/scaffold", false},
		{"schema/scaffold", "schema", true},
		{"filter/selection", "schema", true},
		{"filter/program", "filter/selection", true},
		{"filter/fault", "reconciler", false},
		{"filter/link", "filter/fault", false},
		{"filter", "filter/program", true},
		{"filter", "reconciler", false},
		{"filter", "reconciler/fleet", false},
		{"filter", "internal/api/client", false},
		{"internal/api", "schema", true},
		{"internal/api", "reconciler", false},
		{"internal/api", "filter/fault", false},
		{"internal/envoytest", "filter/program", true},
		{"internal/datadir", "reconciler", false},
		{"reconciler", "filter/selection", true},
		{"reconciler", "internal/api", true},
		{"reconciler", "reconciler/etcd", false},
		{"reconciler", "filter", false},
		{"reconciler/fleet", "reconciler", false},
		{"reconciler/cue", "filter/fault", true},
		{"reconciler/etcd", "reconciler", true},
		{"reconciler/etcd", "reconciler/etcd/embedded", true},
		{"reconciler/etcd", "reconciler/http", false},
		{"reconciler/http", "reconciler/cue", false},
		{"reconciler/etcd", "internal/etcdtest", false},
		{"reconciler/etcd", "cmd/hfid", false},
		{"cmd/hfid", "reconciler/etcd", true},
		{"cmd/hfid", "internal/testtool", false},
		{"cmd/hfi", "reconciler/cue", true},
		{"cmd/hfi", "reconciler", false},
		{"cmd/hfi", "reconciler/http", false},
		{"cmd/hfi", "internal/hfidtest", false},
		{"deploy/demo", "internal/envoytest", true},
		{"deploy/oci", "internal/envoytest", false},
		{"tests/bench", "internal/envoytest", true},
		{"elsewhere", "schema", false},
		{"cmd/hfid", "elsewhere", false},
	} {
		if problem := violation(test.from, test.to); (problem == "") != test.allowed {
			t.Errorf("%s imports %s: allowed is %t, want %t (%s)", test.from, test.to, problem == "", test.allowed, problem)
		}
	}
}
