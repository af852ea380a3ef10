// Command slow prints the flag -run and the packages with which go test runs
// the tests that have a full size, and no others: those that call
// testtool.Slow or testtool.SlowOnly, by whatever functions of their package.
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	tests, err := find(".")
	if err != nil {
		fmt.Fprintln(os.Stderr, "slow:", err)
		os.Exit(1)
	}
	names := slices.Sorted(maps.Keys(tests))
	folders := map[string]bool{}
	for _, folder := range tests {
		folders["./"+filepath.ToSlash(folder)] = true
	}
	fmt.Printf("-run=^(%s)$ %s\n", strings.Join(names, "|"), strings.Join(slices.Sorted(maps.Keys(folders)), " "))
}

// find returns the tests that have a full size, each with its folder.
func find(root string) (map[string]string, error) {
	folders := map[string]uses{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && name != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder := filepath.Dir(name)
		if folders[folder] == nil {
			folders[folder] = uses{}
		}
		folders[folder].add(file)
		return nil
	})
	tests := map[string]string{}
	for folder, uses := range folders {
		for name := range uses.slow() {
			if strings.HasPrefix(name, "Test") {
				tests[name] = folder
			}
		}
	}
	return tests, err
}

// uses are the names that each function and variable of a folder uses. Methods,
// and what is selected of something, begin with a dot: one method counts as
// used by any caller of a method of its name.
type uses map[string]map[string]bool

func (u uses) add(file *ast.File) {
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			name := d.Name.Name
			if d.Recv != nil {
				name = "." + name
			}
			u.note(name, d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range values.Names {
						u.note(name.Name, values)
					}
				}
			}
		}
	}
}

func (u uses) note(name string, declaration ast.Node) {
	if u[name] == nil {
		u[name] = map[string]bool{}
	}
	used := u[name]
	selected := map[*ast.Ident]bool{}
	ast.Inspect(declaration, func(node ast.Node) bool {
		switch node := node.(type) {
		case *ast.SelectorExpr: // comes before the names in it
			selected[node.Sel] = true
			if of, ok := node.X.(*ast.Ident); ok && of.Name == "testtool" {
				used["testtool."+node.Sel.Name] = true
			} else {
				used["."+node.Sel.Name] = true
			}
		case *ast.Ident:
			if !selected[node] {
				used[node.Name] = true
			}
		}
		return true
	})
}

// slow are the names that use testtool.Slow or testtool.SlowOnly, by whatever others.
func (u uses) slow() map[string]bool {
	found := map[string]bool{"testtool.Slow": true, "testtool.SlowOnly": true}
	for before := 0; before < len(found); {
		before = len(found)
		for name, used := range u {
			for one := range used {
				if found[one] {
					found[name] = true
				}
			}
		}
	}
	return found
}
