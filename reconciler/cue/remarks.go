package cue

import (
	"fmt"
	"strings"

	filters "github.com/boifi/hfi/filter/fault"
	"github.com/boifi/hfi/schema"
)

// leftOut warns of a policy that filters do not carry out, by what they
// decide that with: a policy may be valid, and cost more than they let one cost.
// Of the filters that get it, status can then only say that they are current.
func leftOut(entry *schema.Entry) []schema.Problem {
	err := filters.Check(entry.Policy)
	if err == nil {
		return nil
	}
	return []schema.Problem{{
		File: entry.Origin.File, Line: entry.Origin.Line, Column: 1,
		Message: fmt.Sprintf("policy %q is valid, and filters leave it out: %v", entry.Name(), err),
	}}
}

// schemaPath is where a repository keeps its copy of the schema.
func (p *packages) schemaPath() string {
	if inside, ok := p.inModule(schema.ImportPath); ok {
		return join(inside, "policy.cue")
	}
	return join(p.root, schemaFile)
}

// isSchema says whether a file is in a folder that the schema is imported
// from: the daemon's own stands there instead.
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

// remarks is the unit of warnings about what is round the packages.
func (p *packages) remarks() *unit {
	u := &unit{key: "cue.mod/"}
	warn := func(file, format string, args ...any) {
		u.warnings = append(u.warnings, schema.Problem{File: file, Message: fmt.Sprintf(format, args...)})
	}
	own := p.schemaPath()
	for _, f := range p.files {
		switch {
		case p.isSchema(f.path) && strings.HasSuffix(f.path, ".cue"):
			if f.path != own {
				warn(f.path, "this file is not used: the schema is %s alone", own)
			} else if f.content != schema.CUE {
				warn(f.path, "this copy of the schema differs from the one that decides; replace it with the output of \"hfi init\", so that cue vet agrees")
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
		warn(join(p.root, "cue.mod/module.cue"), "the repository has no copy of the schema at %s, so cue vet cannot check its packages; \"hfi init\" makes one", own)
	}
	return u
}
