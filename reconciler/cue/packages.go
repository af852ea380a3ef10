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

// packages is all CUE of a commit, and which package needs which file. It is
// never changed: a delta makes the next one.
type packages struct {
	policyPath string
	// files are kept with their content: a package is evaluated again when one
	// that it imports has changed, long after its own files were read.
	files map[string]*cueFile
	// root is the folder of the nearest cue.mod at or above the policy folder.
	root string
	// hasModule says whether there is one, modulePath what it calls itself.
	hasModule  bool
	modulePath string
	// needs are, for each folder with a package in the policy folder, what it
	// takes files from, or would if they were there (see closure).
	needs map[string]map[string]bool
	// undecided are packages whose last verdict was a time or memory limit,
	// their own or that of all.
	undecided map[string]bool
}

// cueFile is a file of CUE, or of a cue.mod.
type cueFile struct {
	path    string
	content string
	// problem says why the content is not there.
	problem *schema.Problem
	// name is the package's; empty without a package clause. broken is a file
	// that cannot be parsed so far.
	name    string
	broken  bool
	imports []string
}

func newPackages(policyPath string) *packages {
	return &packages{policyPath: policyPath, files: map[string]*cueFile{}, needs: map[string]map[string]bool{}}
}

// apply gives the CUE of the next commit, and the units that are not as they were.
func (p *packages) apply(ctx context.Context, limits Limits, changes []change) (*packages, []*unit, error) {
	var changed []string
	next := *p
	for i := range changes {
		c := &changes[i]
		before := p.files[c.Path]
		if before == nil && (c.Deleted || c.kind != cueKind && c.kind != moduleKind) {
			continue
		}
		if len(changed) == 0 {
			next.files = maps.Clone(p.files)
		}
		changed = append(changed, c.Path)
		delete(next.files, c.Path)
		if c.Deleted || c.kind != cueKind && c.kind != moduleKind {
			continue
		}
		f, err := scan(ctx, c, limits)
		if err != nil {
			return nil, nil, err
		}
		next.files[c.Path] = f
	}
	if len(changed) == 0 && len(p.undecided) == 0 {
		return p, nil, nil
	}
	if len(changed) > 0 {
		next.resolve()
	}
	affected := next.affected(p, changed)
	units, undecided, err := next.evaluate(ctx, limits, affected)
	if err != nil {
		return nil, nil, err
	}
	next.undecided = undecided
	for folder := range p.needs {
		if _, still := next.needs[folder]; !still {
			units = append(units, &unit{key: folder + "/", gone: true})
		}
	}
	if len(changed) > 0 {
		units = append(units, next.remarks())
	}
	return &next, units, nil
}

// scan reads a file and looks at its first lines.
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

// parse finds the package clause and the imports. What is wrong with the
// file is found when the package is evaluated.
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

// resolve finds the module and what each package needs.
func (p *packages) resolve() {
	p.root, p.hasModule, p.modulePath = "", false, ""
	for folder := p.policyPath; ; folder = parent(folder) {
		if f := p.files[join(folder, "cue.mod/module.cue")]; f != nil {
			p.root, p.hasModule, p.modulePath = folder, true, moduleName(f)
			break
		}
		if folder == "" {
			break
		}
	}
	folders := map[string][]*cueFile{}
	for _, f := range p.files {
		if !p.inCueMod(f.path) && strings.HasSuffix(f.path, ".cue") {
			folder := parent(f.path)
			folders[folder] = append(folders[folder], f)
		}
	}
	p.needs = map[string]map[string]bool{}
	for folder, files := range folders {
		// A file without a package clause may be broken further down: CUE will tell.
		if len(files) > 0 && under(folder, p.policyPath) {
			p.needs[folder] = p.closure(folder, folders)
		}
	}
}

// closure is what a package takes files from: its own folder, files of its
// name in the folders above, and the same for what it imports. A folder stands
// for all its files, a folder with a package's name for those of that name.
func (p *packages) closure(folder string, folders map[string][]*cueFile) map[string]bool {
	found := map[string]bool{}
	var add func(folder string)
	follow := func(f *cueFile) {
		for _, imported := range f.imports {
			if inside, ok := p.inModule(imported); ok {
				add(inside)
			}
		}
	}
	add = func(folder string) {
		if found[folder] {
			return
		}
		found[folder] = true
		names := map[string]bool{}
		for _, f := range folders[folder] {
			names[f.name] = true
			follow(f)
		}
		for above := folder; above != p.root && above != ""; {
			above = parent(above)
			for name := range names {
				if name != "" {
					found[named(above, name)] = true
				}
			}
			found[named(above, brokenName)] = true
			for _, f := range folders[above] {
				if f.nameless() || names[f.name] {
					follow(f)
				}
			}
		}
	}
	add(folder)
	return found
}

// brokenName stands for the package of a nameless file.
const brokenName = "*"

func named(folder, name string) string { return folder + "\x00" + name }

// nameless files may belong to any package, for all that is known of them.
func (f *cueFile) nameless() bool { return f.broken || f.name == "" }

// keys are what a file counts as in a closure.
func (f *cueFile) keys() []string {
	folder := parent(f.path)
	keys := []string{folder, named(folder, f.name)}
	if f.nameless() {
		keys = append(keys, named(folder, brokenName))
	}
	return keys
}

// inModule is the folder that an import of the module's own means.
func (p *packages) inModule(imported string) (string, bool) {
	if p.modulePath == "" {
		return "", false
	}
	importPath := ast.ParseImportPath(imported).Path
	if importPath == p.modulePath {
		return p.root, true
	}
	inside, ok := strings.CutPrefix(importPath, p.modulePath+"/")
	return join(p.root, inside), ok
}

// affected are the folders whose packages must be evaluated, in order: last
// those that a limit stopped before, for they may leave no time for the others.
func (p *packages) affected(before *packages, changed []string) []string {
	all := p.root != before.root || p.hasModule != before.hasModule
	touched := map[string]bool{}
	for _, name := range changed {
		if p.inCueMod(name) {
			all = all || under(name, join(p.root, "cue.mod"))
			continue
		}
		for _, f := range []*cueFile{before.files[name], p.files[name]} {
			if f != nil {
				for _, key := range f.keys() {
					touched[key] = true
				}
			}
		}
	}
	var affected []string
	for folder, needs := range p.needs {
		if all || p.undecided[folder] || before.needs[folder] == nil || !maps.Equal(needs, before.needs[folder]) || intersect(touched, needs) {
			affected = append(affected, folder)
		}
	}
	slices.SortFunc(affected, func(a, b string) int {
		switch {
		case p.undecided[a] == p.undecided[b]:
			return strings.Compare(a, b)
		case p.undecided[a]:
			return 1
		}
		return -1
	})
	return affected
}

func intersect(a, b map[string]bool) bool {
	for key := range a {
		if b[key] {
			return true
		}
	}
	return false
}

func (p *packages) inCueMod(name string) bool {
	return slices.Contains(strings.Split(name, "/"), "cue.mod")
}

// moduleName is what a module.cue calls the module, without its major version.
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

// parent is the folder of a file or folder; the root's is itself.
func parent(name string) string {
	if folder := path.Dir(name); folder != "." {
		return folder
	}
	return ""
}

func join(folder, name string) string { return strings.TrimPrefix(path.Join("/", folder, name), "/") }

// under says whether a path is a folder or something in it.
func under(name, folder string) bool {
	return folder == "" || name == folder || strings.HasPrefix(name, folder+"/")
}
