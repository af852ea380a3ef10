package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/boifi/hfi/filter/settings"
)

// TestReadme checks that README.md has exactly the settings and metrics of the filter.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	source := ""
	for _, file := range []string{"config.go", "metrics.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source += string(text)
	}
	names := func(expression, text string) []string {
		var found []string
		for _, match := range regexp.MustCompile(expression).FindAllStringSubmatch(text, -1) {
			found = append(found, strings.ReplaceAll(match[1], ".", "_"))
		}
		slices.Sort(found)
		return slices.Compact(found)
	}
	rows := names(`(?m)^\| (`+"`[^|]*`"+`) \|`, string(readme))
	documented := names("`([a-z_]+)`", strings.Join(rows, " "))
	real := append(names(`case "([a-z_]+)":`, source), names(`= "(hfi\.[a-z_.]+)"`, source)...)
	slices.Sort(real)
	if !slices.Equal(documented, real) {
		t.Errorf("README.md has %q, the filter has %q", documented, real)
	}
	for _, name := range names(`case "([a-z_]+)":`, source) {
		if err := new(config).set(name, settings.Value{Kind: settings.Object, JSON: "{}"}); err == nil {
			t.Errorf("setting %s accepts any value", name)
		}
	}
}

// TestReadmeNamesTheProbes checks that README.md has the User-Agent of each health probe.
func TestReadmeNamesTheProbes(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, agent := range probeAgents {
		if !strings.Contains(string(readme), "`"+agent+"`") {
			t.Errorf("README.md does not name %s", agent)
		}
	}
}
