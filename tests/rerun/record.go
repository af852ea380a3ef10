package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is a line that go test -json prints: see go doc test2json.
type event struct {
	Action, Package, Test, Output string
}

// test is a test or, with a slash in its name, a subtest.
type test struct{ pkg, name string }

func (t test) String() string { return t.pkg + "." + t.name }

// pattern is the value of go test's flag -run for this test alone.
func (t test) pattern() string {
	parts := strings.Split(t.name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// record has the results of a run of go test.
type record struct {
	out     io.Writer
	verbose bool
	// outcome is the last action of each test: run until it has ended, then pass, fail or skip.
	outcome map[test]string
	// output is the output of the tests that have not ended.
	output map[test]string
	// failed has the packages that failed.
	failed []string
	// ended has the packages whose test binary printed FAIL, which it does after the last test.
	ended map[string]bool
}

func newRecord(out io.Writer, verbose bool) *record {
	return &record{out: out, verbose: verbose, outcome: map[test]string{}, output: map[test]string{}, ended: map[string]bool{}}
}

// add handles an event, and prints what go test without -json would: the output of
// packages and of failed tests, and with -v that of all tests.
func (r *record) add(e event) {
	key := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "output":
		r.addOutput(key, e.Output)
	case "run":
		r.outcome[key] = e.Action
	case "pass", "skip", "fail":
		if e.Test == "" {
			r.endPackage(e)
			return
		}
		r.outcome[key] = e.Action
		if e.Action == "fail" {
			fmt.Fprint(r.out, r.output[key])
		}
		delete(r.output, key)
	}
}

func (r *record) addOutput(key test, output string) {
	if key.name == "" && output == "FAIL\n" {
		r.ended[key.pkg] = true
	}
	switch {
	case r.verbose:
		fmt.Fprint(r.out, output)
	case strings.HasPrefix(output, "=== "): // the name of the running test: only with -v
	case key.name != "":
		r.output[key] += output
	case output != "PASS\n":
		fmt.Fprint(r.out, output)
	}
}

// endPackage prints the output of tests that were running when the binary ended.
func (r *record) endPackage(e event) {
	if e.Action == "fail" {
		r.failed = append(r.failed, e.Package)
	}
	for key, output := range r.output {
		if key.pkg == e.Package {
			if e.Action == "fail" {
				fmt.Fprint(r.out, output)
			}
			delete(r.output, key)
		}
	}
}

// retryable returns the failed tests in order. It returns an error if running them
// again is not enough, because a package failed for another reason than its tests,
// or not all tests ran. For a failed subtest the list has its test or, if subtests
// is set, the subtest of the first level.
func (r *record) retryable(subtests bool) ([]test, error) {
	wanted := map[test]bool{}
	parents := map[test]bool{}
	byTests := map[string]bool{}
	for key, outcome := range r.outcome {
		if outcome == "run" {
			return nil, fmt.Errorf("%s has not ended", key)
		}
		if outcome != "fail" {
			continue
		}
		byTests[key.pkg] = true
		parts := strings.Split(key.name, "/")
		whole := test{key.pkg, parts[0]}
		if subtests && len(parts) > 1 {
			parents[whole] = true
			wanted[test{key.pkg, parts[0] + "/" + parts[1]}] = true
		} else {
			wanted[whole] = true
		}
	}
	for key := range parents {
		delete(wanted, key)
	}
	for _, pkg := range r.failed {
		if !r.ended[pkg] || !byTests[pkg] {
			return nil, fmt.Errorf("%s failed otherwise than by tests that ran to their end", pkg)
		}
	}
	if len(wanted) == 0 {
		return nil, errors.New("no test failed")
	}
	return slices.SortedFunc(maps.Keys(wanted), func(a, b test) int {
		return cmp.Or(strings.Compare(a.pkg, b.pkg), strings.Compare(a.name, b.name))
	}), nil
}

// passed reports whether a test ran and passed.
func (r *record) passed(t test) bool { return r.outcome[t] == "pass" }
