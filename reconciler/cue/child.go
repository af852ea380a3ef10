package cue

import (
	"bufio"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/boifi/hfi/schema"
)

// childVariable makes the program that calls RunChild the evaluator of
// packages of CUE.
const childVariable = "HFI_VET_CHILD"

// The exit codes by which the child says what became of it.
const (
	exitDone   = 0
	exitMemory = 97
	exitFailed = 98
)

// request is what the parent sends, as one gob.
type request struct {
	// Files have the content of every file that a package may see, by its
	// path from the repository's root.
	Files map[string]string
	// PolicyPath is the folder where packages are looked for, Root that of the module.
	PolicyPath, Root string
	// Modules are the folders in the policy folder that have a cue.mod of their own.
	Modules []string
	// Targets are the folders whose packages are asked for.
	Targets []string
	// Memory is in bytes.
	Memory int64
}

// response is a line that the child sends: first that it begins with a
// folder, then what it found there.
type response struct {
	Folder   string           `json:"folder"`
	Begin    bool             `json:"begin,omitempty"`
	Policies []evaluated      `json:"policies,omitempty"`
	Errors   []schema.Problem `json:"errors,omitempty"`
}

// evaluated is a policy that a package exports.
type evaluated struct {
	JSON json.RawMessage `json:"json"`
	File string          `json:"file"`
	Line int             `json:"line"`
}

// maxStack is the child's deepest stack, in bytes: CUE recurses with what it evaluates.
const maxStack = 256 << 20

// RunChild must be the first thing in main, and in TestMain. Packages of CUE
// are evaluated in a child process that is this program again: CUE takes no
// context and can be made to run for ever, and only a process can be stopped
// for certain. In such a child RunChild does that work and exits; else it
// returns at once.
func RunChild() {
	if os.Getenv(childVariable) == "" {
		return
	}
	debug.SetMaxStack(maxStack)
	var r request
	in := bufio.NewReader(os.Stdin)
	if err := gob.NewDecoder(in).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "reading the request:", err)
		os.Exit(exitFailed)
	}
	limitMemory(r.Memory)
	go func() {
		// The parent's end stays open as long as it wants an answer.
		_, _ = io.Copy(io.Discard, in)
		os.Exit(exitFailed)
	}()
	go watchMemory(r.Memory)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	evaluateAll(&r, func(answer response) {
		err := encoder.Encode(answer)
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			os.Exit(exitFailed)
		}
	})
	os.Exit(exitDone)
}

// watchMemory ends the process when the heap and the stacks have grown over
// the limit. limitMemory is a second, harder line behind it.
func watchMemory(limit int64) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	for range time.Tick(5 * time.Millisecond) {
		metrics.Read(samples)
		if int64(samples[0].Value.Uint64()-samples[1].Value.Uint64()) > limit {
			os.Exit(exitMemory)
		}
	}
}
