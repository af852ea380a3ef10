package cue

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"cuelang.org/go/cue"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/token"

	"github.com/boifi/hfi/schema"
)

// writtenAt returns the place of a policy in a package, or that of the field policies.
func writtenAt(value cue.Value, policy string) (file string, line, column int) {
	for _, path := range []cue.Path{cue.MakePath(cue.Str("policies"), cue.Str(policy)), cue.ParsePath("policies")} {
		if file, line, column = repositoryPlace(positionsOf(value.LookupPath(path))); file != "" {
			break
		}
	}
	return file, line, column
}

// deduplicate removes duplicates. Of equal messages about a field it keeps the last
// by place, the one nearest to the value: CUE also lists the references that lead
// there.
func deduplicate(problems []schema.Problem) []schema.Problem {
	slices.SortFunc(problems, schema.CompareProblems)
	// If an abort is invalid, matchN also reports that the fault has none.
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

// positionsOf returns the positions that a value comes from, the field's own first.
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

// repositoryPlace returns the first position in the repository's files outside the schema.
func repositoryPlace(positions []token.Pos) (file string, line, column int) {
	for _, pos := range positions {
		p := pos.Position()
		outside := strings.HasPrefix(p.Filename, "/") && !under(p.Filename, repository) // the limits
		if p.Filename != "" && p.Line > 0 && !outside && !strings.Contains("/"+p.Filename, "/cue.mod/") {
			return inRepository(p.Filename), p.Line, p.Column
		}
	}
	return "", 0, 0
}

// convertErrors converts CUE's errors for a package into problems, each once.
// It leaves out errors that only explain another, unless there are no others.
func convertErrors(err error, limits []limitsFile) []located {
	var problems []located
	all := cueerrors.Errors(err)
	for _, strict := range []bool{true, false} {
		for _, e := range all {
			if p, ok := convertError(e, limits, strict); ok && !slices.Contains(problems, p) {
				problems = append(problems, p)
			}
		}
		if len(problems) > 0 {
			return problems
		}
	}
	return append(problems, located{Problem: schema.Problem{Message: firstLine(err)}})
}

// located is a problem and the name of its policy, if it is in one.
type located struct {
	schema.Problem
	policy string
}

// convertError converts one error of CUE. With strict set, it returns false for
// an error that only explains another.
func convertError(e cueerrors.Error, limits []limitsFile, strict bool) (located, bool) {
	var p located
	p.File, p.Line, p.Column = repositoryPlace(cueerrors.Positions(e))
	at := unquoted(e.Path())
	p.Field = at.String()
	p.Message = firstLine(withoutPath(e))
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
	// In two parts: inside is relative to the policy, as the names of its lists are.
	p.Field = at[:2].String()
	if field := inside.String(); strings.HasPrefix(field, "[") {
		p.Field += field
	} else if field != "" {
		p.Field += "." + field
	}
	for i := range limits {
		if sentence := limits[i].sentenceForPackage(inside, e); sentence != "" {
			p.Message = sentence
			return p, true
		}
	}
	message, worth := policySentence(inside, e)
	if message == "" {
		return p, worth || !strict
	}
	p.Message = message
	return p, worth || !strict
}

// withoutPath returns an error without the field path at its start.
func withoutPath(e cueerrors.Error) error {
	message := strings.TrimPrefix(e.Error(), strings.Join(e.Path(), ".")+": ")
	return errors.New(strings.ReplaceAll(message, repository+"/", ""))
}
