package scaffold_test

import (
	"fmt"
	"log"
	"maps"
	"slices"

	"github.com/boifi/hfi/schema/scaffold"
)

func ExampleFiles() {
	files, err := scaffold.Files()
	if err != nil {
		log.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Println(name)
	}
	// Output:
	// .github/workflows/policies.yaml
	// README.md
	// cue.mod/module.cue
	// cue.mod/pkg/github.com/boifi/hfi/schema/limits.cue
	// cue.mod/pkg/github.com/boifi/hfi/schema/policy.cue
	// policies/checkout-latency.yaml
	// policies/outage/outage.cue
	// policies/shared/shared.cue
}
