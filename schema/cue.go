//go:build !wasm

// The filter has no part of this.

package schema

import _ "embed"

// CUE is the text of policy.cue, which says which policies are valid.
//
//go:embed policy.cue
var CUE string

// ImportPath is where packages of CUE import policy.cue from.
const ImportPath = "github.com/boifi/hfi/schema"
