package cue

import (
	"context"
	"errors"
	"fmt"
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

// maxPackageOutput bounds the JSON of the policies of one package, in bytes.
const maxPackageOutput = 32 << 20

// evaluateAll runs in the child process. It evaluates the packages in the
// request's targets as "cue vet -c ./..." does, and sends the responses.
func evaluateAll(r *request, send func(response)) {
	ctx := cuecontext.New()
	d := definitions{
		policies: ctx.CompileString(schema.CUE, cue.Filename(schemaFile)).LookupPath(cue.ParsePath("#Policies")), limits: r.Limits,
	}
	for i := range r.Limits {
		d.limited = append(d.limited, r.Limits[i].build(ctx).LookupPath(cue.ParsePath("#Policies")))
	}
	found := loadPackages(r)
	for _, folder := range r.Targets {
		send(response{Folder: folder, Begin: true})
		answer := response{Folder: folder}
		for _, instance := range found[folder] {
			evaluatePackage(ctx, &d, instance, &answer)
		}
		answer.Errors = deduplicate(answer.Errors)
		size := 0
		for _, p := range answer.Policies {
			size += len(p.JSON)
		}
		if size > maxPackageOutput {
			answer.Errors = append(answer.Errors, schema.Problem{
				Message: fmt.Sprintf("the policies of the package have more than %d bytes of JSON; split the package", maxPackageOutput),
			})
		}
		if len(answer.Errors) > 0 {
			answer.Policies = nil
		}
		send(answer)
	}
}

// loadPackages returns the packages, or the errors, in each of the targets.
func loadPackages(r *request) map[string][]*build.Instance {
	overlay := map[string]load.Source{}
	for name, content := range r.Files {
		overlay[absolute(name)] = load.FromString(content)
	}
	found := map[string][]*build.Instance{}
	for _, call := range loaderCalls(r) {
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
				// The error is not specific to a package: report it for each.
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
	return found
}

// loaderCall has the arguments of one call to the loader.
type loaderCall struct {
	dir       string
	arguments []string
	targets   []string
}

// plainFolder matches a folder whose name has no special meaning for the loader.
var plainFolder = regexp.MustCompile(`^[A-Za-z0-9_/ +-]*$`)

// loaderCalls returns the calls that load each target by name. The pattern ./... would
// hide all other packages behind the first error. So loaderCalls has to leave out the
// folders that ./... skips.
func loaderCalls(r *request) []loaderCall {
	all := []loaderCall{{dir: r.PolicyPath}}
	for _, folder := range r.Targets {
		inside := strings.Trim(strings.TrimPrefix(folder, r.PolicyPath), "/")
		switch {
		case skippedByCUE(r, inside):
		case plainFolder.MatchString(inside):
			all[0].arguments = append(all[0].arguments, "./"+inside)
			all[0].targets = append(all[0].targets, folder)
		default:
			all = append(all, loaderCall{dir: folder, arguments: []string{"."}, targets: []string{folder}})
		}
	}
	if len(all[0].targets) == 0 {
		return all[1:]
	}
	return all
}

// skippedByCUE reports whether ./... skips a folder. inside is relative to the policy folder.
func skippedByCUE(r *request, inside string) bool {
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

// repository is the root of the loader's files. The folder must not exist, so
// that the loader finds only the files of the request and none on the disk.
const repository = "/.hfi-no-such-folder/repository"

func absolute(name string) string { return path.Join(repository, name) }

// inRepository converts a path of the loader to one relative to the repository's root.
func inRepository(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, repository), "/")
}

// definitions are what the policies of a package must conform to.
type definitions struct {
	// policies is #Policies of policy.cue, limited those with each of the limits.
	policies cue.Value
	limits   []limitsFile
	limited  []cue.Value
}

// evaluatePackage evaluates one package and adds its policies or its errors to
// the answer.
func evaluatePackage(ctx *cue.Context, d *definitions, instance *build.Instance, answer *response) {
	defer func() {
		if r := recover(); r != nil {
			answer.Errors = append(answer.Errors, schema.Problem{Message: fmt.Sprintf("CUE cannot evaluate the package: %.200v", r)})
		}
	}()
	var value cue.Value
	fail := func(err error) {
		for _, p := range convertErrors(err, d.limits) {
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
	// As in cue vet. Validate returns more errors than Err.
	err := value.Validate(cue.Attributes(true), cue.Definitions(true), cue.Hidden(true), cue.Concrete(true))
	if err != nil {
		fail(err)
	}
	exported := value.LookupPath(cue.ParsePath("policies"))
	if !exported.Exists() {
		return // the package exports no policies: others import it
	}
	exported = exported.Unify(d.policies)
	if exportedErr := exported.Validate(cue.Concrete(true)); exportedErr != nil {
		fail(exportedErr)
		// CUE may have stopped at the first policy: validate each one below.
	}
	if len(answer.Errors) == 0 {
		for _, limited := range d.limited {
			exported = exported.Unify(limited)
		}
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

// schemaFile is the file name in CUE's positions in policy.cue.
const schemaFile = "cue.mod/pkg/" + schema.ImportPath + "/policy.cue"

// noRegistry is a module registry without modules.
type noRegistry struct{}

var errNoRegistry = errors.New("modules from a registry are not supported; copy the imported packages into this repository")

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
