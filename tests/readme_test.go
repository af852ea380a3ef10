// Package tests checks that tests/README.md matches the tests.
package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(testtool.Root(), path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// quoted returns the texts in backticks that match a pattern.
func quoted(text, pattern string) []string {
	var found []string
	for _, match := range regexp.MustCompile("`("+pattern+")`").FindAllStringSubmatch(text, -1) {
		found = append(found, match[1])
	}
	return found
}

// Each test of the table is in one of the packages of its row, and the row says
// whether it needs the slow suite.
func TestTableNamesExistingTests(t *testing.T) {
	_, table, _ := strings.Cut(read(t, "tests/README.md"), "\n## Where each feature is tested\n")
	table, _, _ = strings.Cut(table, "\n## ")
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.Contains(line, "---") || strings.Contains(line, "packages") {
			continue
		}
		rows++
		var source strings.Builder
		for _, folder := range quoted(cells[2], `[a-z0-9/]+`) {
			files, err := filepath.Glob(filepath.Join(testtool.Root(), folder, "*_test.go"))
			if err != nil || len(files) == 0 {
				t.Errorf("there are no tests in %s", folder)
			}
			for _, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				source.Write(text)
			}
		}
		tests := quoted(cells[3], `Test\w+`)
		if len(tests) == 0 {
			t.Errorf("the row names no test: %s", line)
		}
		for _, test := range tests {
			_, body, found := strings.Cut(source.String(), "\nfunc "+test+"(t *testing.T) {\n")
			if !found {
				t.Errorf("%s is in none of %s", test, cells[2])
			}
			if strings.HasPrefix(body, "\ttesttool.SlowOnly(t)\n") && !strings.Contains(cells[4], "slow") {
				t.Errorf("%s is of the slow suite", test)
			}
		}
	}
	if rows < 20 {
		t.Errorf("the table has %d rows", rows)
	}
}

// README.md names, and run-all-tests.sh runs, exactly the existing scripts.
func TestScriptsExistAndAreListed(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testtool.Root(), "tests", "story-*.sh"))
	if err != nil {
		t.Fatal(err)
	}
	var there []string
	for _, file := range files {
		there = append(there, filepath.Base(file))
	}
	var named []string
	for _, match := range regexp.MustCompile(`\]\((story-[a-z-]+\.sh)\)`).FindAllStringSubmatch(read(t, "tests/README.md"), -1) {
		named = append(named, match[1])
	}
	var run []string
	if list := regexp.MustCompile(`for story in ([a-z -]+);`).FindStringSubmatch(read(t, "tests/run-all-tests.sh")); list != nil {
		for name := range strings.FieldsSeq(list[1]) {
			run = append(run, "story-"+name+".sh")
		}
	}
	slices.Sort(named)
	slices.Sort(run)
	if !slices.Equal(named, there) || !slices.Equal(run, there) {
		t.Errorf("there are %v; README.md names %v, and run-all-tests.sh runs %v", there, named, run)
	}
}

// The suites are targets of the Makefile, and the tests in examples exist.
func TestTheCommandsAreThere(t *testing.T) {
	makefile := read(t, "Makefile")
	text := read(t, "tests/README.md")
	for _, match := range regexp.MustCompile("`?make ([a-z-]+)").FindAllStringSubmatch(text, -1) {
		if !strings.Contains(makefile, "\n"+match[1]+":") {
			t.Errorf("the Makefile has no target %s", match[1])
		}
	}
	examples := regexp.MustCompile(`go test (\./[a-z0-9/]+) [^#\n]*-(?:run|fuzz) '?(\w+)`).FindAllStringSubmatch(text, -1)
	if len(examples) < 4 {
		t.Errorf("%d examples are found", len(examples))
	}
	for _, match := range examples {
		files, err := filepath.Glob(filepath.Join(testtool.Root(), match[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "\nfunc "+match[2]+"(")
		}) {
			t.Errorf("%s has no %s", match[1], match[2])
		}
	}
}
