package reconciler

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/boifi/hfi/schema"
)

// MaxProblems, and MaxProblemBytes of JSON, bound the errors that the status
// lists, and likewise the warnings. Both are part of the leader's report, which
// is one value in etcd, of at most 1.5 MiB in all.
const (
	MaxProblems     = 1000
	MaxProblemBytes = 512 << 10
)

// maxProblemText bounds each text of a problem, in bytes, so that the first
// problem always fits.
const maxProblemText = 2 << 10

// firstProblems returns the problems that the status lists.
func firstProblems(all []schema.Problem) []schema.Problem {
	var listed []schema.Problem
	room := MaxProblemBytes
	for _, problem := range all[:min(len(all), MaxProblems)] {
		problem = cutProblem(problem)
		text, err := json.Marshal(problem)
		if err != nil {
			panic(fmt.Sprintf("encoding a problem: %v", err)) // Impossible: it has only strings and numbers.
		}
		if room -= len(text) + 1; room < 0 {
			break
		}
		listed = append(listed, problem)
	}
	return listed
}

func cutProblem(problem schema.Problem) schema.Problem {
	for _, text := range []*string{&problem.File, &problem.Field, &problem.Message} {
		*text = Cut(Escape(*text), maxProblemText)
	}
	return problem
}

// Cut shortens a text to at most limit bytes, and appends an ellipsis if it did. UTF-8 stays valid.
func Cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}

func countProblems(problems []schema.Problem) string {
	switch len(problems) {
	case 0:
		return "it has no policies"
	case 1:
		return cutProblem(problems[0]).String()
	}
	return fmt.Sprintf("%d errors, the first is %s", len(problems), cutProblem(problems[0]))
}
