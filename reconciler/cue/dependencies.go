package cue

import (
	"maps"
	"slices"
	"strings"

	"cuelang.org/go/cue/ast"
)

// resolve finds the module and the dependencies of each package.
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
		// A file without a package clause may have an error, which CUE will report.
		if len(files) > 0 && under(folder, p.policyPath) {
			p.needs[folder] = p.closure(folder, folders)
		}
	}
}

// closure returns the keys of the files that a package uses: those of its folder,
// those of its package name in the folders above, and the same for each package
// that it imports. A folder is the key of all its files; a folder with a package
// name (see named) is the key of its files with that name.
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

// brokenName is used in keys in place of the package name of a nameless file.
const brokenName = "*"

func named(folder, name string) string { return folder + "\x00" + name }

// nameless reports that the file may belong to any package.
func (f *cueFile) nameless() bool { return f.broken || f.name == "" }

// keys returns the keys of a file in a closure.
func (f *cueFile) keys() []string {
	folder := parent(f.path)
	keys := []string{folder, named(folder, f.name)}
	if f.nameless() {
		keys = append(keys, named(folder, brokenName))
	}
	return keys
}

// inModule returns the folder of an imported package, if it is in the module.
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

// affected returns the folders whose packages must be evaluated, in order: all with again
// set. Those that a limit stopped before are last, because they may use up the time.
func (p *packages) affected(before *packages, changed []string, again bool) []string {
	all := again || p.root != before.root || p.hasModule != before.hasModule
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
