// Command link rewrites the filter's Wasm module so that a sidecar without
// faults pays as little for it as for an empty one:
//
//	go run ./filter/link -o OUT IN
//
// A module built with the Go SDK exports a callback for everything that Envoy
// can tell a filter. Envoy calls each that is exported, several for every
// request, and each call enters the Go runtime, which costs microseconds. The
// rewritten module exports only what the filter needs (see exports.go), and
// puts a few instructions of plain Wasm in front of what is called for every
// request (see wrappers.go). While the filter says that it has nothing to do,
// no request reaches Go; and what Envoy hands over while the filter decides on
// a request goes to a fixed place, and not through Go's allocator.
//
// A module that was not rewritten works just as well, only slower.
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

// run is main without the process: it returns the exit code, 0 or 1.
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

// link rewrites the module in the file in into the file out. After an error,
// out is as it was.
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

// writeAtomically replaces a file so that readers see all of the old or all
// of the new.
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
	// CreateTemp lets nobody else read, and a module is for everyone.
	err = errors.Join(err, temporary.Chmod(0o644), temporary.Close())
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}
