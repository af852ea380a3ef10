package cue

import (
	"slices"
	"strings"

	"github.com/boifi/hfi/schema"
)

// request returns the request for a batch of packages: their files, those of the
// packages that they import, the module, the schema, and the limits.
func (p *packages) request(limits Limits, holding *policyLimits, batch []string) *request {
	wanted := map[string]bool{}
	for _, folder := range batch {
		for key := range p.needs[folder] {
			wanted[key] = true
		}
	}
	r := &request{
		Files: map[string]string{}, PolicyPath: p.policyPath, Root: p.root, Targets: batch, Memory: limits.EvalMemory,
		Limits: holding.files(),
	}
	if !p.hasModule {
		r.Root = p.policyPath
	}
	for _, f := range p.files {
		if f.problem != nil && !f.broken {
			continue
		}
		if p.inCueMod(f.path) {
			if above, _, _ := strings.Cut("/"+f.path, "/cue.mod"); above != "" && strings.Trim(above, "/") != p.root {
				r.Modules = append(r.Modules, strings.Trim(above, "/"))
			}
			if p.hasModule && under(f.path, join(p.root, "cue.mod")) && !p.isSchema(f.path) {
				r.Files[f.path] = f.content
			}
		} else if slices.ContainsFunc(f.keys(), func(key string) bool { return wanted[key] }) && !p.isSchema(f.path) {
			r.Files[f.path] = f.content
		}
	}
	if p.hasModule {
		r.Files[p.schemaPath()] = schema.CUE
		for _, f := range r.Limits {
			if !f.Own {
				r.Files[f.Path] = f.Text
			}
		}
	}
	return r
}

// unitOf converts a child's answer.
func (p *packages) unitOf(answer response) (*unit, error) {
	u := &unit{key: answer.Folder + "/", errors: answer.Errors}
	for i := range u.errors {
		if u.errors[i].File == "" {
			u.errors[i].File = p.packageProblem(answer.Folder, "").File
		}
	}
	for _, f := range p.files {
		if f.problem != nil && f.broken && parent(f.path) == answer.Folder {
			u.errors = append(u.errors, *f.problem)
		}
	}
	for _, policy := range answer.Policies {
		origin := schema.Origin{File: policy.File, Line: policy.Line}
		if origin.File == "" {
			at := p.packageProblem(answer.Folder, "")
			origin.File, origin.Line = at.File, 1
		}
		entry, tooBig, err := entryOf(policy.JSON, origin)
		if err != nil {
			return nil, err
		}
		if tooBig != nil {
			u.errors = append(u.errors, *tooBig)
			continue
		}
		u.addEntry(entry, nil)
	}
	if len(u.errors) > 0 {
		u.entries = nil
	}
	return u, nil
}

// packageProblem returns a problem of a whole package, at its first file.
func (p *packages) packageProblem(folder, message string) schema.Problem {
	problem := schema.Problem{Message: message}
	for _, f := range p.files {
		if parent(f.path) == folder && strings.HasSuffix(f.path, ".cue") && (problem.File == "" || f.path < problem.File) {
			problem.File = f.path
		}
	}
	return problem
}
