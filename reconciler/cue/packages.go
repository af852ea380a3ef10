package cue

import (
	"context"
	"maps"
	"path"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/parser"

	"github.com/boifi/hfi/schema"
)

// packages has all CUE files of a commit, and the dependencies of its packages.
// It is immutable: with returns a new one.
type packages struct {
	policyPath string
	// files keep their content: a package is evaluated again when an imported
	// package has changed, long after its own files were read.
	files map[string]*cueFile
	// root is the folder of the nearest cue.mod at or above the policy folder.
	root string
	// hasModule reports whether there is a module, modulePath is its name.
	hasModule  bool
	modulePath string
	// needs has, for each folder in the policy folder with a package, the keys
	// of the files that the package uses or would use if they existed (see
	// closure).
	needs map[string]map[string]bool
	// undecided has the folders of packages that were stopped by a limit on time
	// or memory, for one package or for all.
	undecided map[string]bool
}

// cueFile is a CUE file, or a file in a cue.mod folder.
type cueFile struct {
	path    string
	content string
	// problem says why content is empty, or is nil.
	problem *schema.Problem
	// name is the name of the package, or empty without a package clause.
	name string
	// broken reports that the content cannot be read, or its package clause and
	// imports cannot be parsed.
	broken  bool
	imports []string
}

func newPackages(policyPath string) *packages {
	return &packages{policyPath: policyPath, files: map[string]*cueFile{}, needs: map[string]map[string]bool{}}
}

// with returns the packages of the next commit, not yet evaluated.
func (p *packages) with(ctx context.Context, limits Limits, changes []change) (*packages, error) {
	changed := false
	next := *p
	for i := range changes {
		c := &changes[i]
		before := p.files[c.Path]
		if before == nil && (c.Deleted || c.kind != cueKind && c.kind != moduleKind) {
			continue
		}
		if !changed {
			next.files = maps.Clone(p.files)
		}
		changed = true
		delete(next.files, c.Path)
		if c.Deleted || c.kind != cueKind && c.kind != moduleKind {
			continue
		}
		f, err := scan(ctx, c, limits)
		if err != nil {
			return nil, err
		}
		next.files[c.Path] = f
	}
	if changed {
		next.resolve()
	}
	return &next, nil
}

// evaluateChanged evaluates the packages that differ from those before, or all with again
// set. It returns the units that have changed.
func (p *packages) evaluateChanged(ctx context.Context, limits Limits, before *packages, changes []change, holding *policyLimits, again bool) ([]*unit, error) {
	var changed []string
	for i := range changes {
		if name := changes[i].Path; before.files[name] != p.files[name] {
			changed = append(changed, name)
		}
	}
	if len(changed) == 0 && len(p.undecided) == 0 && !again {
		return nil, nil
	}
	units, undecided, err := p.evaluate(ctx, limits, holding, p.affected(before, changed, again))
	if err != nil {
		return nil, err
	}
	p.undecided = undecided
	for folder := range before.needs {
		if _, still := p.needs[folder]; !still {
			units = append(units, &unit{key: folder + "/", deleted: true})
		}
	}
	if len(changed) > 0 {
		units = append(units, p.warningsUnit())
	}
	return units, nil
}

// scan reads a file and parses its package clause and imports.
func scan(ctx context.Context, c *change, limits Limits) (*cueFile, error) {
	f := &cueFile{path: c.Path}
	if c.Refusal != "" {
		f.problem = &schema.Problem{File: c.Path, Message: c.Refusal}
		return f, nil
	}
	content, problem, err := read(ctx, &c.File, limits.MaxFileSize)
	if err != nil {
		return nil, err
	}
	if problem == nil {
		content, problem = text(content)
	}
	if problem != nil {
		problem.File = c.Path
		f.problem, f.broken = problem, true
		return f, nil
	}
	f.content = string(content)
	if c.kind == cueKind || strings.HasSuffix(c.Path, ".cue") {
		f.parse()
	}
	return f, nil
}

// parse finds the package clause and the imports. Errors in the file are reported
// when the package is evaluated.
func (f *cueFile) parse() {
	defer func() {
		if recover() != nil {
			f.broken = true
		}
	}()
	syntax, err := parser.ParseFile(f.path, f.content, parser.ImportsOnly)
	if syntax == nil {
		f.broken = true
		return
	}
	f.broken = err != nil
	f.name = syntax.PackageName()
	for spec := range syntax.ImportSpecs() {
		if spec.Path != nil {
			f.imports = append(f.imports, strings.Trim(spec.Path.Value, `"#`))
		}
	}
}

func (p *packages) inCueMod(name string) bool {
	return slices.Contains(strings.Split(name, "/"), "cue.mod")
}

// moduleName returns the module name in a module.cue, without the major version.
func moduleName(f *cueFile) string {
	syntax, err := parser.ParseFile(f.path, f.content)
	if syntax == nil || err != nil {
		return ""
	}
	for _, decl := range syntax.Decls {
		if field, ok := decl.(*ast.Field); ok && labelOf(field) == "module" {
			if value, ok := field.Value.(*ast.BasicLit); ok {
				name, _, _ := strings.Cut(strings.Trim(value.Value, `"`), "@")
				return name
			}
		}
	}
	return ""
}

// parent returns the folder of a file or folder. The parent of the root is the root.
func parent(name string) string {
	if folder := path.Dir(name); folder != "." {
		return folder
	}
	return ""
}

func join(folder, name string) string { return strings.TrimPrefix(path.Join("/", folder, name), "/") }

// under reports whether a path is the folder or is below it.
func under(name, folder string) bool {
	return folder == "" || name == folder || strings.HasPrefix(name, folder+"/")
}
