package cue

import (
	"bufio"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"github.com/boifi/hfi/schema"
)

// childVariable is the environment variable that makes RunChild evaluate CUE packages.
const childVariable = "HFI_VET_CHILD"

// The exit codes of the child.
const (
	exitDone   = 0
	exitMemory = 97
	exitFailed = 98
)

// request is the parent's message to the child, encoded as one gob.
type request struct {
	// Files has the content of every file that the packages may read, by path
	// relative to the repository's root.
	Files map[string]string
	// PolicyPath is the policy folder, Root the root folder of the module.
	PolicyPath, Root string
	// Modules are the folders below the policy folder that have their own cue.mod.
	Modules []string
	// Targets are the folders whose packages the child evaluates.
	Targets []string
	// Memory is the memory limit in bytes.
	Memory int64
	// Limits are the limits to enforce.
	Limits []limitsFile
	// Check is set if the child holds YAML and JSON files against the limits: it
	// answers this message with the problems of the limits, and then each message with
	// files, []checkedFile, with the problems of these.
	Check bool
	// Depth is the maximum nesting depth of the files.
	Depth int
}

// response is a line of JSON from the child. For each folder the child sends one
// with Begin set before the evaluation, and one with the result after it.
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

// maxStack bounds each stack of the child, in bytes. CUE's evaluation is recursive.
const maxStack = 256 << 20

// RunChild must be the first call in main, and in TestMain. CUE packages are
// evaluated in a child process, which runs this program again: evaluation takes
// no context and may never end, and only a process can be stopped reliably. In a
// child process RunChild evaluates the packages and exits. Otherwise it returns
// at once.
func RunChild() {
	if os.Getenv(childVariable) == "" {
		return
	}
	debug.SetMaxStack(maxStack)
	var r request
	in := bufio.NewReader(os.Stdin)
	decoder := gob.NewDecoder(in)
	if err := decoder.Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "reading the request:", err)
		os.Exit(exitFailed)
	}
	limitMemory(r.Memory)
	files := make(chan []checkedFile)
	go func() {
		// The parent keeps its end open while it waits for answers.
		for {
			var next []checkedFile
			if err := decoder.Decode(&next); err != nil {
				os.Exit(exitFailed)
			}
			files <- next
		}
	}()
	go watchMemory(r.Memory)
	out := bufio.NewWriter(os.Stdout)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	send := func(answer response) {
		err := encoder.Encode(answer)
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			os.Exit(exitFailed)
		}
	}
	if r.Check {
		checkAll(&r, files, send)
	} else {
		evaluateAll(&r, send)
	}
	os.Exit(exitDone)
}

// watchMemory ends the process when its heap and stacks exceed the limit, in
// bytes. limitMemory sets a hard limit above it.
func watchMemory(limit int64) {
	samples := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	for range time.Tick(5 * time.Millisecond) {
		metrics.Read(samples)
		if int64(samples[0].Value.Uint64()-samples[1].Value.Uint64()) > limit {
			os.Exit(exitMemory)
		}
	}
}
