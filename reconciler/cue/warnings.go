package cue

import (
	"fmt"
	"path"
	"strings"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// compiler has the expressions of all workspaces, so that none is compiled twice.
var compiler program.Compiler

// cost returns what a valid policy takes of a filter's limits. If evaluating it is too
// expensive, filters do not get it, and there is a warning: the status would only show that
// the filters are current.
func cost(entry *schema.Entry) (program.Weight, []schema.Problem) {
	compiled, err := compiler.Compile(entry.Policy)
	if err == nil {
		return compiled.Weight(), nil
	}
	return program.Weight{}, []schema.Problem{{
		File: entry.Origin.File, Line: entry.Origin.Line, Column: 1,
		Message: fmt.Sprintf("policy %q is valid, but filters do not get it: %v", entry.Name(), err),
	}}
}

// schemaPath returns the path of the repository's copy of the schema.
func (p *packages) schemaPath() string {
	if inside, ok := p.inModule(schema.ImportPath); ok {
		return join(inside, "policy.cue")
	}
	return join(p.root, schemaFile)
}

// isSchema reports whether a file is in a folder that the schema may be imported
// from. hfi uses its own schema instead of such files.
func (p *packages) isSchema(name string) bool {
	if inside, ok := p.inModule(schema.ImportPath); ok && parent(name) == inside {
		return true
	}
	for _, kind := range []string{"pkg", "gen", "usr"} {
		if parent(name) == join(p.root, "cue.mod/"+kind+"/"+schema.ImportPath) {
			return true
		}
	}
	return false
}

// warningsUnit returns a unit with the warnings about the module and about files that
// are not used.
func (p *packages) warningsUnit() *unit {
	u := &unit{key: "cue.mod/"}
	warn := func(file, format string, args ...any) {
		u.warnings = append(u.warnings, schema.Problem{File: file, Message: fmt.Sprintf(format, args...)})
	}
	own, limits := p.schemaPath(), p.limitsPath()
	for _, f := range p.files {
		switch {
		case f.path == limits:
		case path.Base(f.path) == limitsName && f.name == "schema":
			warn(f.path, "this file has no effect: limits are in %s", limits)
		case p.isSchema(f.path) && strings.HasSuffix(f.path, ".cue"):
			if f.path != own {
				warn(f.path, "this file is not used: the schema is %s", own)
			} else if f.content != schema.CUE {
				warn(f.path, "this copy of the schema differs from hfi's own, which is used instead; replace it with the one that \"hfi init\" writes, so that cue vet gives the same verdict")
			}
		case f.problem != nil:
			if !under(f.path, p.policyPath) {
				warn(f.path, "this file is not used: %s", f.problem.Message)
			}
		case !p.inCueMod(f.path) && under(f.path, p.policyPath) && strings.HasSuffix(f.path, ".cue") && f.name == "" && !f.broken:
			warn(f.path, "this file has no package clause, so it belongs to no package and is not used")
		}
	}
	if p.hasModule && len(p.needs) > 0 && p.files[own] == nil {
		warn(join(p.root, "cue.mod/module.cue"), "the repository has no copy of the schema at %s, so cue vet cannot check its packages; \"hfi init\" writes one", own)
	}
	return u
}
