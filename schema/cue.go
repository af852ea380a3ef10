//go:build !wasm

// The filter does not need the CUE text.

package schema

import _ "embed"

// CUE is the text of policy.cue, the definition of a valid policy.
//
//go:embed policy.cue
var CUE string

// ImportPath is the import path of policy.cue in CUE packages.
const ImportPath = "github.com/boifi/hfi/schema"
