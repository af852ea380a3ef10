package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/boifi/hfi/internal/hfidtest"
	"github.com/boifi/hfi/internal/testtool"
)

// declared has the top-level declarations of the repository's Go code.
type declared struct {
	// tests has the folders of each test, fuzz test, benchmark and example.
	tests map[string][]string
	// exported has "package.Name" for packages that can be imported.
	exported map[string]bool
	packages map[string]bool
	// literals are all string literals outside of tests, each ended by a line break.
	literals string
}

var parseTree = sync.OnceValues(func() (*declared, error) {
	files, err := tracked()
	if err != nil {
		return nil, err
	}
	d := &declared{tests: map[string][]string{}, exported: map[string]bool{}, packages: map[string]bool{}}
	var literals strings.Builder
	for _, file := range files {
		if path.Ext(file) != ".go" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(testtool.Root(), file), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		test := strings.HasSuffix(file, "_test.go")
		for _, declaration := range parsed.Decls {
			if function, ok := declaration.(*ast.FuncDecl); ok && test && function.Recv == nil {
				d.tests[function.Name.Name] = append(d.tests[function.Name.Name], path.Dir(file))
			}
			if !test && parsed.Name.Name != "main" {
				d.packages[parsed.Name.Name] = true
				for _, name := range namesOf(declaration) {
					d.exported[parsed.Name.Name+"."+name] = true
				}
			}
		}
		if !test {
			ast.Inspect(parsed, func(node ast.Node) bool {
				if literal, ok := node.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if value, err := strconv.Unquote(literal.Value); err == nil {
						literals.WriteString(value + "\n")
					}
				}
				return true
			})
		}
	}
	d.literals = "\n" + literals.String()
	return d, nil
})

// namesOf returns the exported names of a declaration, without methods.
func namesOf(declaration ast.Decl) []string {
	var names []*ast.Ident
	switch declaration := declaration.(type) {
	case *ast.FuncDecl:
		if declaration.Recv == nil {
			names = append(names, declaration.Name)
		}
	case *ast.GenDecl:
		for _, spec := range declaration.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, spec.Name)
			case *ast.ValueSpec:
				names = append(names, spec.Names...)
			}
		}
	}
	var exported []string
	for _, name := range names {
		if name.IsExported() {
			exported = append(exported, name.Name)
		}
	}
	return exported
}

func declarations(t *testing.T) *declared {
	t.Helper()
	d, err := parseTree()
	if err != nil {
		t.Fatalf("reading the repository's Go code: %v", err)
	}
	return d
}

var (
	testName   = regexp.MustCompile(`^(Test|Fuzz|Benchmark|Example)[A-Z]\w*$`)
	pathName   = regexp.MustCompile(`^\.?[\w-][\w.-]*(/[\w.-]+)+/?$`)
	symbolName = regexp.MustCompile(`^([a-z]\w*)\.([A-Z]\w*)`)
	makeTarget = regexp.MustCompile(`(?m)^(?:make) ([a-z][a-z-]*)`)
	flagName   = regexp.MustCompile(`^--[a-z][a-z-]+`)
)

// Tests, files, packages and types that a document names in backticks exist. A test
// that is followed by a folder, as in `TestX` in `reconciler`, is in that folder.
func TestWhatDocumentsNameExists(t *testing.T) {
	all, code := tree(t), declarations(t)
	tests, paths, symbols := 0, 0, 0
	for _, p := range pages(t) {
		for _, group := range p.spans() {
			for i, name := range group {
				switch {
				case testName.MatchString(name):
					tests++
					folders, known := code.tests[name]
					if !known {
						t.Errorf("%s names %s, but there is no such test", p.file, name)
						break
					}
					for _, next := range group[i+1:] {
						if all[next] && strings.Contains(next, "/") || all[next] && code.packages[next] {
							if !slices.Contains(folders, next) {
								t.Errorf("%s says that %s is in %s, but it is in %v", p.file, name, next, folders)
							}
							break
						}
					}
				case pathName.MatchString(name):
					first, _, _ := strings.Cut(name, "/")
					if !all[first] {
						break // a path of something else: a policy repository, an image
					}
					paths++
					if clean := path.Clean(name); !all[clean] && !all[path.Join(path.Dir(p.file), clean)] {
						t.Errorf("%s names %s, which does not exist", p.file, name)
					}
				case symbolName.MatchString(name):
					match := symbolName.FindStringSubmatch(name)
					if !code.packages[match[1]] {
						break
					}
					symbols++
					if !code.exported[match[0]] {
						t.Errorf("%s names %s, but package %s has no such name", p.file, name, match[1])
					}
				}
			}
		}
	}
	if tests < 15 || paths < 30 || symbols < 5 {
		t.Errorf("only %d tests, %d paths and %d symbols were checked: are names still found?", tests, paths, symbols)
	}
}

// Targets of make and flags of hfid and hfi that a document names exist.
func TestTargetsAndFlagsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(testtool.Root(), "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	isTarget := func(name string) bool {
		return regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `:`).Match(makefile)
	}
	flags := help(t)
	targets, named := 0, 0
	for _, p := range pages(t) {
		texts := slices.Concat(p.spans()...)
		for _, b := range p.blocks() {
			if b.language == "sh" {
				texts = append(texts, b.content)
			}
		}
		for _, text := range texts {
			for _, match := range makeTarget.FindAllStringSubmatch(text, -1) {
				targets++
				if !isTarget(match[1]) {
					t.Errorf("%s names make %s, but there is no such target", p.file, match[1])
				}
			}
			// deploy/ has flags of etcd, kubectl and others too, and its own test of settings.
			if flag := flagName.FindString(text); flag != "" && !strings.HasPrefix(p.file, "deploy/") {
				named++
				if !strings.Contains(flags, flag+" ") {
					t.Errorf("%s names %s, but neither hfid nor hfi has such a flag", p.file, flag)
				}
			}
		}
	}
	if targets < 10 || named < 10 {
		t.Errorf("only %d targets and %d flags were checked: are they still found?", targets, named)
	}
}

// help returns the usage texts of hfid, hfi and each of hfi's commands.
func help(t *testing.T) string {
	t.Helper()
	say := func(arguments ...string) string {
		out, err := exec.Command(arguments[0], arguments[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", arguments, err, out)
		}
		return string(out)
	}
	all := say(hfidtest.Binary(t), "--help") + say(hfidtest.Client(t), "--help")
	for _, match := range regexp.MustCompile(`(?m)^  ([a-z-]+)  `).FindAllStringSubmatch(say(hfidtest.Client(t), "--help"), -1) {
		all += say(hfidtest.Client(t), match[1], "--help")
	}
	return all
}

// Messages and reasons that the tables of docs/troubleshooting.md quote are in the
// code. An ellipsis stands for the parts that vary.
func TestQuotedMessagesAreInTheCode(t *testing.T) {
	literals := declarations(t).literals
	quoted := 0
	for _, group := range readPage(t, "docs/troubleshooting.md").tableHeads() {
		for _, message := range group {
			quoted++
			for part := range strings.SplitSeq(message, "…") {
				part = strings.TrimSpace(part)
				if part == message {
					// A single word must be a literal, or begin one: as a part of a sentence it could be accidental.
					if !strings.Contains(message, " ") {
						part = "\n" + part
					}
				}
				if !strings.Contains(literals, part) {
					t.Errorf("no text of the code has %q, which docs/troubleshooting.md quotes in %q", strings.TrimSpace(part), message)
				}
			}
		}
	}
	if quoted < 20 {
		t.Errorf("only %d messages are quoted: are tables still found?", quoted)
	}
}
