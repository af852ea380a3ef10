package envoytest

import (
	"encoding/json"
	"fmt"

	"github.com/boifi/hfi/filter/program"
	"github.com/boifi/hfi/schema"
)

// Program compiles a JSON list of policies, {"policies": […]}, as the daemon does for filters.
func Program(list string) ([]byte, error) {
	var policies struct{ Policies []json.RawMessage }
	if err := json.Unmarshal([]byte(list), &policies); err != nil {
		return nil, fmt.Errorf("reading a list of policies: %w", err)
	}
	var compiler program.Compiler
	var compiled []*program.Compiled
	for _, text := range policies.Policies {
		policy, err := schema.Parse(text)
		if err != nil {
			return nil, err
		}
		one, err := compiler.Compile(policy)
		if err != nil {
			return nil, fmt.Errorf("compiling policy %s: %w", policy.Metadata.Name, err)
		}
		compiled = append(compiled, one)
	}
	return program.Encode(compiled)
}

// MustProgram is Program for a list that is known to compile.
func MustProgram(list string) string {
	encoded, err := Program(list)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}
