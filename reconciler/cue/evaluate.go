package cue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/build"
	"cuelang.org/go/cue/cuecontext"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/load"
	"cuelang.org/go/cue/token"
	"cuelang.org/go/mod/modfile"
	"cuelang.org/go/mod/module"

	"github.com/boifi/hfi/schema"
)

// maxPackageOutput bounds the JSON of all policies of one package, in bytes.
const maxPackageOutput = 32 << 20

// evaluateAll evaluates the packages in the request's targets as "cue vet -c ./..."
// does, in the child process.
func evaluateAll(r *request, send func(response)) {
	ctx := cuecontext.New()
	policies := ctx.CompileString(schema.CUE, cue.Filename(schemaFile)).LookupPath(cue.ParsePath("#Policies"))
	overlay := map[string]load.Source{}
	for name, content := range r.Files {
		overlay[absolute(name)] = load.FromString(content)
	}
	found := map[string][]*build.Instance{}
	for _, call := range calls(r) {
		for _, instance := range load.Instances(call.arguments, &load.Config{
			Overlay:    overlay,
			Dir:        absolute(call.dir),
			ModuleRoot: absolute(r.Root),
			Registry:   noRegistry{},
			Env:        []string{},
		}) {
			folder := inRepository(instance.Dir)
			if slices.Contains(call.targets, folder) {
				found[folder] = append(found[folder], instance)
			} else if instance.Err != nil {
				// An error that is of no package in particular is all packages'.
				for _, target := range call.targets {
					found[target] = append(found[target], instance)
				}
			}
		}
		for _, target := range call.targets {
			if len(found[target]) == 0 {
				found[target] = []*build.Instance{{Err: cueerrors.Newf(token.NoPos, "CUE cannot find the package")}}
			}
		}
	}
	for _, folder := range r.Targets {
		send(response{Folder: folder, Begin: true})
		answer := response{Folder: folder}
		for _, instance := range found[folder] {
			evaluatePackage(ctx, policies, instance, &answer)
		}
		answer.Errors = distinct(answer.Errors)
		size := 0
		for _, p := range answer.Policies {
			size += len(p.JSON)
		}
		if size > maxPackageOutput {
			answer.Errors = append(answer.Errors, schema.Problem{
				Message: fmt.Sprintf("the package makes more than %d bytes of policies; split it", maxPackageOutput),
			})
		}
		if len(answer.Errors) > 0 {
			answer.Policies = nil
		}
		send(answer)
	}
}

// call is what one call to the loader is asked for.
type call struct {
	dir       string
	arguments []string
	targets   []string
}

// plainFolder is a folder whose name means nothing else to the loader.
var plainFolder = regexp.MustCompile(`^[A-Za-z0-9_/ +-]*$`)

// calls ask for each target by name, and not for ./..., whose first error
// hides all other packages. So what ./... passes over is left out here.
func calls(r *request) []call {
	all := []call{{dir: r.PolicyPath}}
	for _, folder := range r.Targets {
		inside := strings.Trim(strings.TrimPrefix(folder, r.PolicyPath), "/")
		switch {
		case passedOver(r, inside):
		case plainFolder.MatchString(inside):
			all[0].arguments = append(all[0].arguments, "./"+inside)
			all[0].targets = append(all[0].targets, folder)
		default:
			all = append(all, call{dir: folder, arguments: []string{"."}, targets: []string{folder}})
		}
	}
	if len(all[0].targets) == 0 {
		return all[1:]
	}
	return all
}

// passedOver says whether ./... leaves a folder out, which is relative to the policy folder.
func passedOver(r *request, inside string) bool {
	if inside == "" {
		return false
	}
	at := r.PolicyPath
	for _, step := range strings.Split(inside, "/") {
		if strings.HasPrefix(step, "_") || strings.HasPrefix(step, ".") || step == "testdata" {
			return true
		}
		if at = join(at, step); slices.Contains(r.Modules, at) {
			return true
		}
	}
	return false
}

// repository is where the loader is told that the files are. There is
// no such folder: what is not in the request does not exist, whatever is on the disk.
const repository = "/.hfi-no-such-folder/repository"

func absolute(name string) string { return path.Join(repository, name) }

// inRepository is a path of the loader's, from the repository's root.
func inRepository(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, repository), "/")
}

func evaluatePackage(ctx *cue.Context, policies cue.Value, instance *build.Instance, answer *response) {
	defer func() {
		if r := recover(); r != nil {
			answer.Errors = append(answer.Errors, schema.Problem{Message: fmt.Sprintf("CUE cannot evaluate the package: %.200v", r)})
		}
	}()
	var value cue.Value
	fail := func(err error) {
		for _, p := range packageProblems(err) {
			if p.File == "" && p.policy != "" {
				p.File, p.Line, p.Column = writtenAt(value, p.policy)
			}
			answer.Errors = append(answer.Errors, p.Problem)
		}
	}
	var noFiles *load.NoFilesError
	if errors.As(instance.Err, &noFiles) {
		return
	}
	if instance.Err != nil {
		fail(instance.Err)
		return
	}
	value = ctx.BuildInstance(instance)
	// As cue vet does; Validate has more errors than Err.
	err := value.Validate(cue.Attributes(true), cue.Definitions(true), cue.Hidden(true), cue.Concrete(true))
	if err != nil {
		fail(err)
	}
	exported := value.LookupPath(cue.ParsePath("policies"))
	if !exported.Exists() {
		return // a library
	}
	exported = exported.Unify(policies)
	if exportedErr := exported.Validate(cue.Concrete(true)); exportedErr != nil {
		fail(exportedErr)
		// CUE may have stopped at one policy: ask it about each.
	}
	fields, fieldsErr := exported.Fields()
	if fieldsErr != nil {
		if len(answer.Errors) == 0 {
			fail(fieldsErr)
		}
		return
	}
	for fields.Next() {
		policy := fields.Value()
		if err := policy.Validate(cue.Concrete(true)); err != nil {
			fail(err)
			continue
		}
		text, err := policy.MarshalJSON()
		if err != nil {
			fail(err)
			continue
		}
		file, line, _ := writtenAt(value, fields.Selector().Unquoted())
		answer.Policies = append(answer.Policies, evaluated{JSON: text, File: file, Line: line})
	}
}

// writtenAt is where a package has one of its policies, or else all of them.
func writtenAt(value cue.Value, policy string) (file string, line, column int) {
	for _, path := range []cue.Path{cue.MakePath(cue.Str("policies"), cue.Str(policy)), cue.ParsePath("policies")} {
		if file, line, column = ownPlace(positionsOf(value.LookupPath(path))); file != "" {
			break
		}
	}
	return file, line, column
}

// distinct leaves each complaint about a field once, at the place nearest
// the value: CUE lists, with it, those that lead there.
func distinct(problems []schema.Problem) []schema.Problem {
	slices.SortFunc(problems, schema.CompareProblems)
	// To matchN a wrong abort is none.
	problems = slices.DeleteFunc(problems, func(p schema.Problem) bool {
		return strings.HasSuffix(p.Field, ".fault") && slices.ContainsFunc(problems, func(q schema.Problem) bool {
			return strings.HasPrefix(q.Field, p.Field+".abort")
		})
	})
	type complaint struct{ field, message string }
	last := map[complaint]schema.Problem{}
	for _, p := range problems {
		last[complaint{p.Field, p.Message}] = p
	}
	return slices.SortedFunc(maps.Values(last), schema.CompareProblems)
}

// positionsOf are the places where a value was written, the field's own first.
func positionsOf(value cue.Value) []token.Pos {
	positions := []token.Pos{value.Pos()}
	_, parts := value.Expr()
	for _, part := range parts {
		positions = append(positions, part.Pos())
	}
	if source := value.Source(); source != nil {
		positions = append(positions, source.Pos())
	}
	return positions
}

// schemaFile is the name under which a place in policy.cue is reported by CUE.
const schemaFile = "cue.mod/pkg/" + schema.ImportPath + "/policy.cue"

// ownPlace is the first place that is in the repository's own files, not in the schema.
func ownPlace(positions []token.Pos) (file string, line, column int) {
	for _, pos := range positions {
		p := pos.Position()
		if p.Filename != "" && p.Line > 0 && !strings.Contains("/"+p.Filename, "/cue.mod/") {
			return inRepository(p.Filename), p.Line, p.Column
		}
	}
	return "", 0, 0
}

// packageProblems turns CUE's errors for a package into problems, each once.
func packageProblems(err error) []located {
	var problems []located
	all := cueerrors.Errors(err)
	for _, strict := range []bool{true, false} {
		for _, e := range all {
			if p, ok := packageProblem(e, strict); ok && !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
		if len(problems) > 0 {
			return problems
		}
	}
	return append(problems, located{Problem: schema.Problem{Message: firstLine(err)}})
}

// located is a problem, and the policy that it is in, if it is in one.
type located struct {
	schema.Problem
	policy string
}

// packageProblem is one error of CUE's. Strictly, the errors that only
// explain another are none.
func packageProblem(e cueerrors.Error, strict bool) (located, bool) {
	var p located
	p.File, p.Line, p.Column = ownPlace(cueerrors.Positions(e))
	at := unquoted(e.Path())
	p.Field = at.String()
	p.Message = firstLine(bare(e))
	if strings.HasPrefix(p.Message, "invalid left-hand value") && strict {
		return p, false
	}
	if len(at) < 2 || at[0] != "policies" {
		return p, true
	}
	p.policy = at[1]
	inside := at[2:]
	if len(inside) > 0 && endsWithNames(inside) {
		inside = append(slices.Clone(inside[:len(inside)-1]), "headers")
	}
	// In two parts: what is an item of a list is told by its way from the policy on.
	p.Field = at[:2].String()
	if field := inside.String(); strings.HasPrefix(field, "[") {
		p.Field += field
	} else if field != "" {
		p.Field += "." + field
	}
	message, worth := policySentence(inside, e)
	if message == "" {
		return p, worth || !strict
	}
	p.Message = message
	return p, worth || !strict
}

// bare is an error without its path in front.
func bare(e cueerrors.Error) error {
	message := strings.TrimPrefix(e.Error(), strings.Join(e.Path(), ".")+": ")
	return errors.New(strings.ReplaceAll(message, repository+"/", ""))
}

// noRegistry refuses to look for modules anywhere.
type noRegistry struct{}

var errNoRegistry = errors.New("modules from registries are not supported: keep what you import in this repository")

// ModFile, Fetch and ModuleVersions implement modconfig.Registry.
func (noRegistry) ModFile(context.Context, module.Version) (*modfile.File, error) {
	return nil, errNoRegistry
}

func (noRegistry) Fetch(context.Context, module.Version) (module.SourceLoc, error) {
	return module.SourceLoc{}, errNoRegistry
}

func (noRegistry) ModuleVersions(context.Context, string) ([]string, error) {
	return nil, nil
}
