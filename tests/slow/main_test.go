package main

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

func TestFind(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"a/a_test.go": `package a
			func TestOnly(t *testing.T) { testtool.SlowOnly(t) }
			func TestByFunction(t *testing.T) { t.Run("x", func(t *testing.T) { helper() }) }
			func TestByMethod(t *testing.T) { world{}.stay() }
			func TestByVariable(t *testing.T) { _ = size }
			func TestOther(t *testing.T) { testtool.Path(t, "etcd"); other.helper(); method(); Slow() }
			func TestShadow(t *testing.T) { var w world; w.helper() }`,
		"a/b_test.go": `package a
			func helper() { deeper() }
			func (world) stay() { deeper() }
			func method() {}
			var size = map[bool]int{true: 1}[testtool.Slow()]
			func deeper() { if testtool.Slow() {} }`,
		// What another folder calls by the same name is something else.
		"b/a_test.go":          `package b; func TestElsewhere(t *testing.T) { helper() }`,
		"c/d/a_test.go":        `package d; func TestBelow(t *testing.T) { testtool.SlowOnly(t) }`,
		"c/testdata/a_test.go": `package d; func TestData(t *testing.T) { testtool.SlowOnly(t) }`,
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tests, err := find(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"TestBelow", "TestByFunction", "TestByMethod", "TestByVariable", "TestOnly"}
	if got := slices.Sorted(maps.Keys(tests)); !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if folder := tests["TestBelow"]; folder != filepath.Join(root, "c/d") {
		t.Errorf("TestBelow is in %s", folder)
	}
}

// Of the repository's own tests those with a short form are among them, too.
func TestTheRepositorysTestsAreFound(t *testing.T) {
	tests, err := find(testtool.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []string{"TestSoak", "TestOutagesOfTheControlPlaneFailNoRequest", "TestNothingButWholeValidCommitsIsServed", "TestGoInstall"} {
		if tests[test] == "" {
			t.Errorf("%s is not found", test)
		}
	}
	if folder := tests["TestMatches"]; folder != "" {
		t.Errorf("TestMatches in %s has no full size", folder)
	}
}
