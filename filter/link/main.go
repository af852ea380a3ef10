// Command link rewrites the filter's Wasm module so that it runs in Envoy 1.32 and
// later, and in a sidecar without faults costs as little as an empty module:
//
//	go run ./filter/link -o OUT IN
//
// A module built with the Go SDK exports every callback of the interface. Envoy
// calls each exported callback, several for every request, and each call enters the
// Go runtime, which costs microseconds. The rewritten module exports only what the
// filter needs (see exports.go), and wraps the callbacks of requests in a few
// instructions of Wasm (see callbacks.go). While the filter has nothing to do, no
// request enters Go. The data that Envoy returns while the filter decides on a
// request is written to a fixed buffer instead of through Go's allocator.
//
// It also has functions of its own in place of those of WASI that Envoys before 1.39
// lack, or do not allow at every time: see imports.go.
//
// The original module works too in Envoy 1.39 and later, but is slower.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stderr))
}

// run runs the command and returns its exit code, 0 or 1.
func run(args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, "usage: link -o OUT IN") }
	out := flags.String("o", "", "the file to write")
	if err := flags.Parse(args); err != nil {
		return 1
	}
	if *out == "" || flags.NArg() != 1 {
		flags.Usage()
		return 1
	}
	if err := link(flags.Arg(0), *out); err != nil {
		fmt.Fprintln(stderr, "link:", err)
		return 1
	}
	return 0
}

// link reads the module in the file in and writes the rewritten one to the file
// out. After an error, out has not changed.
func link(in, out string) error {
	original, err := os.ReadFile(in)
	if err != nil {
		return fmt.Errorf("reading the module: %w", err)
	}
	rewritten, err := rewrite(original)
	if err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	if err := writeAtomically(out, rewritten); err != nil {
		return fmt.Errorf("writing the module: %w", err)
	}
	return nil
}

// writeAtomically replaces a file. Readers see either the old or the new content.
func writeAtomically(path string, data []byte) (err error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	_, err = temporary.Write(data)
	// CreateTemp gives only the owner access.
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
