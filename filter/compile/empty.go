package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

// function is a function of the standard library that gets another body.
type function struct {
	pkg string
	// name is that of a function, such as gcenable, or of a method, such as
	// (*timers).check. It is init@ and the name of a file for all functions init in that file.
	name string
	// body is the beginning of the new body. After it, the function returns zero values.
	body string
	// found is set when the function has been replaced.
	found bool
}

// edit replaces a part of a source.
type edit struct {
	from, to int
	text     string
}

// empty returns a source file with new bodies for the functions wanted by name, or nil
// if it has none of these.
func empty(source []byte, file string, wanted map[string]*function) ([]byte, error) {
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	at := func(pos token.Pos) int { return files.Position(pos).Offset }
	var edits []edit
	for _, declaration := range tree.Decls {
		declared, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		f := wanted[nameOf(declared, file)]
		if f == nil {
			continue
		}
		if declared.Body == nil {
			return nil, fmt.Errorf("%s is written in assembly", f.name)
		}
		f.found = true
		if results := declared.Type.Results; results != nil && len(results.List[0].Names) == 0 {
			edits = append(edits, edit{at(results.Pos()), at(results.End()), named(source, results, at)})
		}
		edits = append(edits, edit{at(declared.Body.Pos()), at(declared.Body.End()), "{ " + f.body + "; return }"})
		declared.Body = nil // it uses no import any more
	}
	if len(edits) == 0 {
		return nil, nil
	}
	edits = append(edits, unusedImports(tree, at)...)
	slices.SortFunc(edits, func(a, b edit) int { return b.from - a.from })
	for _, e := range edits {
		source = slices.Concat(source[:e.from], []byte(e.text), source[e.to:])
	}
	return source, nil
}

// nameOf returns the name of a declared function, as in function.name.
func nameOf(declared *ast.FuncDecl, file string) string {
	name := declared.Name.Name
	if name == "init" {
		return name + "@" + file
	}
	if declared.Recv == nil {
		return name
	}
	switch receiver := declared.Recv.List[0].Type.(type) {
	case *ast.Ident:
		return receiver.Name + "." + name
	case *ast.StarExpr:
		if base, ok := receiver.X.(*ast.Ident); ok {
			return "(*" + base.Name + ")." + name
		}
	}
	return "" // of a generic type
}

// named returns a list of results with a name for each, so that the function can return
// without values. (The compiler does not inline functions whose results have the name _.)
func named(source []byte, results *ast.FieldList, at func(token.Pos) int) string {
	var list []string
	for i, result := range results.List {
		list = append(list, "result"+strconv.Itoa(i)+" "+string(source[at(result.Type.Pos()):at(result.Type.End())]))
	}
	return "(" + strings.Join(list, ", ") + ")"
}

// unusedImports returns edits that give the name _ to imports that are not used any more.
func unusedImports(tree *ast.File, at func(token.Pos) int) (edits []edit) {
	used := map[string]bool{}
	ast.Inspect(tree, func(n ast.Node) bool {
		if selector, ok := n.(*ast.SelectorExpr); ok {
			if base, ok := selector.X.(*ast.Ident); ok {
				used[base.Name] = true
			}
		}
		return true
	})
	for _, spec := range tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil || spec.Name != nil && spec.Name.Name == "_" {
			continue
		}
		name := path.Base(imported)
		from := spec.Path.Pos()
		if spec.Name != nil {
			name, from = spec.Name.Name, spec.Name.Pos()
		}
		if !used[name] {
			edits = append(edits, edit{at(from), at(spec.Path.End()), "_ " + spec.Path.Value})
		}
	}
	return edits
}

// functions reads a list of functions, one in a line: a package and the name, and
// then the body if it is not empty.
func functions(list string) (read []function) {
	for line := range strings.Lines(list) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		pkg, rest, _ := strings.Cut(line, " ")
		name, body, _ := strings.Cut(rest, " ")
		read = append(read, function{pkg: pkg, name: name, body: body})
	}
	return read
}
