// Command rerun runs go test for continuous integration: it runs failed tests once
// more, by name, and reports those that passed only then.
//
//	rerun [-max N] [-report FILE] [-subtests] [flags of go test] PACKAGE...
//
// It accepts -count, -p, -race, -run, -timeout, -v and -vet as go test does, and
// prints what go test prints. A package that does not build, or whose test binary ends
// before it has run all tests (a panic, a timeout, os.Exit), fails at once: it is
// then unknown which tests did not run.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rerun:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	// most is the maximum number of failed tests that are run once more; if more fail, none is.
	most int
	// report is the file to which tests that failed and then passed are appended, one per line; "" means none.
	report string
	// subtests runs failed subtests once more alone, instead of the whole test.
	subtests bool
	// verbose shows the output of tests that pass.
	verbose bool
	// flags are those of go test, and packages its patterns.
	flags, packages []string
}

func parse(arguments []string) (settings, error) {
	var s settings
	set := flag.NewFlagSet("rerun", flag.ContinueOnError)
	set.IntVar(&s.most, "max", 2, "how many failed tests are run once more; if more failed, none is")
	set.StringVar(&s.report, "report", "", "append the tests that failed and then passed to this file")
	set.BoolVar(&s.subtests, "subtests", false, "run a failed subtest alone once more, and not its whole test")
	set.BoolVar(&s.verbose, "v", false, "show the output of all tests")
	set.Bool("race", false, "as of go test")
	set.Int("count", 1, "as of go test")
	set.Int("p", 1, "as of go test")
	set.String("run", "", "as of go test")
	set.Duration("timeout", 0, "as of go test")
	set.String("vet", "", "as of go test")
	if err := set.Parse(arguments); err != nil {
		return s, err
	}
	set.Visit(func(f *flag.Flag) {
		if slices.Contains([]string{"race", "count", "p", "run", "timeout", "vet"}, f.Name) {
			s.flags = append(s.flags, "-"+f.Name+"="+f.Value.String())
		}
	})
	if s.packages = set.Args(); len(s.packages) == 0 {
		return s, errors.New("no package is named")
	}
	return s, nil
}

// command runs the tests and returns an error unless each test passed in the first or second run.
func command(ctx context.Context, arguments []string, out io.Writer) error {
	s, err := parse(arguments)
	if err != nil {
		return err
	}
	first, err := goTest(ctx, s, out, s.packages...)
	if err == nil {
		return nil
	}
	failed, retryErr := first.retryable(s.subtests)
	switch {
	case retryErr != nil:
		return fmt.Errorf("%w; nothing is run again: %w", err, retryErr)
	case len(failed) > s.most:
		return fmt.Errorf("%w; %d tests failed, and at most %d are run again", err, len(failed), s.most)
	}
	for _, test := range failed {
		fmt.Fprintf(out, "rerun: %s failed, and is run once more\n", test)
		// Without -count=1 go test could return a cached result. Of two flags -run the last one counts.
		again := s
		again.flags = append(slices.Clone(s.flags), "-count=1", "-run="+test.pattern())
		second, err := goTest(ctx, again, out, test.pkg)
		if err != nil {
			return fmt.Errorf("%s failed twice: %w", test, err)
		}
		if !second.passed(test) {
			return fmt.Errorf("%s did not run when it was run once more", test)
		}
	}
	for _, test := range failed {
		fmt.Fprintf(out, "rerun: %s failed, and then passed\n", test)
	}
	return note(s.report, failed)
}

// note appends the names of tests to a file.
func note(path string, tests []test) (err error) {
	if path == "" {
		return nil
	}
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("opening the report: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for _, test := range tests {
		if _, err := fmt.Fprintln(file, test); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	return nil
}

// goTest runs go test on packages, and prints and records its results. It returns the error of the command.
func goTest(ctx context.Context, s settings, out io.Writer, packages ...string) (*record, error) {
	process := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-json"}, s.flags, packages)...)
	process.Stderr = os.Stderr
	process.Cancel = func() error { return process.Process.Signal(os.Interrupt) }
	pipe, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, fmt.Errorf("starting go test: %w", err)
	}
	r := newRecord(out, s.verbose)
	decoder := json.NewDecoder(pipe)
	for err == nil {
		var e event
		if err = decoder.Decode(&e); err == nil {
			r.add(e)
		}
	}
	if !errors.Is(err, io.EOF) {
		// go test must not block on a reader that has stopped.
		_, _ = io.Copy(io.Discard, pipe)
		return r, errors.Join(fmt.Errorf("reading the output of go test: %w", err), process.Wait())
	}
	if err := process.Wait(); err != nil {
		return r, fmt.Errorf("go test: %w", err)
	}
	return r, nil
}
