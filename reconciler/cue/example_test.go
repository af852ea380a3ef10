package cue_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/boifi/hfi/reconciler/cue"
)

// A program that validates policies calls RunChild first thing in main, or in
// TestMain: packages of CUE are evaluated in a child process.
func ExampleDir() {
	dir, err := os.MkdirTemp("", "policies-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const policy = `metadata: {name: outage}
spec:
  rules:
    - fault: {abort: {status: 99}}
`
	if err := os.WriteFile(filepath.Join(dir, "outage.yaml"), []byte(policy), 0o600); err != nil {
		log.Fatal(err)
	}
	verdict, err := cue.Dir(context.Background(), dir, ".", "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("valid:", verdict.Set != nil)
	for _, problem := range verdict.Errors {
		fmt.Println(problem)
	}
	// Output:
	// valid: false
	// outage.yaml:4:31: spec.rules[0].fault.abort.status: status must be a whole number from 200 to 599, not 99
}
