package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/boifi/hfi/internal/testtool"
)

// flaky fails the first time that it is called with a name in a folder.
const flaky = `
func flaky(t *testing.T, name string) {
	if file, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
		file.Close()
		t.Error("this is the first time")
	}
}
func mark(t *testing.T, name string) {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil { t.Fatal(err) }
	file.WriteString("x")
	file.Close()
}
`

// modules runs rerun on a module with a package a of the given body, and a package
// b that passes.
func modules(t *testing.T, body string, arguments ...string) (out, report string, err error) {
	t.Helper()
	testtool.SlowOnly(t)
	folder := t.TempDir()
	t.Chdir(folder)
	t.Setenv("GOFLAGS", "")
	for name, text := range map[string]string{
		"go.mod":      "module m\n\ngo 1.26\n",
		"a/a_test.go": "package a\n\nimport (\n\"os\"\n\"testing\"\n\"time\"\n)\n\nvar _ = time.Second\n" + flaky + body,
		"b/b_test.go": "package b\n\nimport \"testing\"\n\nfunc TestFine(t *testing.T) { t.Log(\"unseen\") }\n",
	} {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var buffer bytes.Buffer
	err = command(t.Context(), append(append([]string{"-report=report"}, arguments...), "./..."), &buffer)
	text, readErr := os.ReadFile("report")
	if readErr != nil && !os.IsNotExist(readErr) {
		t.Fatal(readErr)
	}
	return buffer.String(), string(text), err
}

func TestWhatPassesTheSecondTimePassesAndIsReported(t *testing.T) {
	for _, c := range []struct {
		name, body string
		arguments  []string
		report     string
	}{
		{"nothing fails", `func TestA(t *testing.T) {}`, nil, ""},
		{"two tests", `
func TestA(t *testing.T) { flaky(t, "a") }
func TestB(t *testing.T) { flaky(t, "b") }
func TestAB(t *testing.T) { mark(t, "ran") }`, nil, "m/a.TestA\nm/a.TestB\n"},
		{"two subtests of a test are one test", `
func TestA(t *testing.T) {
	t.Run("x y", func(t *testing.T) { flaky(t, "x") })
	t.Run("z", func(t *testing.T) { flaky(t, "z") })
	t.Run("fine", func(t *testing.T) { mark(t, "ran") })
}`, nil, "m/a.TestA\n"},
		{"subtests alone", `
func TestA(t *testing.T) {
	t.Run("x y", func(t *testing.T) { t.Run("deeper", func(t *testing.T) { flaky(t, "x") }) })
	t.Run("fine", func(t *testing.T) { mark(t, "ran") })
}`, []string{"-subtests"}, "m/a.TestA/x_y\n"},
		{"more with a higher bound", `
func TestA(t *testing.T) { flaky(t, "a") }
func TestB(t *testing.T) { flaky(t, "b") }
func TestC(t *testing.T) { flaky(t, "c") }`, []string{"-max=3", "-race=false", "-p=2", "-timeout=5m"}, "m/a.TestA\nm/a.TestB\nm/a.TestC\n"},
		{"of tests that are asked for", `
func TestA(t *testing.T) { flaky(t, "a") }
func TestB(t *testing.T) { t.Fatal("nobody asked for it") }`, []string{"-run=^(TestA|TestFine)$"}, "m/a.TestA\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, report, err := modules(t, c.body, c.arguments...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if report != c.report {
				t.Errorf("the report is %q, not %q", report, c.report)
			}
			if !strings.Contains(out, "ok  \tm/a") || !strings.Contains(out, "ok  \tm/b") || strings.Contains(out, "unseen") || strings.Contains(out, "=== RUN") {
				t.Errorf("not what go test prints:\n%s", out)
			}
			if failed := strings.Contains(out, "this is the first time"); failed != (c.report != "") {
				t.Errorf("what a failed test tells is to be seen, and nothing else:\n%s", out)
			}
			if ran, err := os.ReadFile("a/ran"); err == nil && (string(ran) == "x") == (c.name == "two subtests of a test are one test") {
				t.Errorf("what passed ran %d times", len(ran))
			}
		})
	}
}

func TestWhatFails(t *testing.T) {
	for _, c := range []struct{ name, body, says string }{
		{"a test that fails twice", `func TestA(t *testing.T) { t.Error("always") }`, "TestA failed twice"},
		{"too many", `
func TestA(t *testing.T) { flaky(t, "a") }
func TestB(t *testing.T) { flaky(t, "b") }
func TestC(t *testing.T) { flaky(t, "c") }`, "3 tests failed"},
		{"what does not build", `func TestA(t *testing.T) { nothing() }`, "nothing is run again"},
		{"what vet refuses", `func TestA(t *testing.T) { t.Errorf("%d", "text") }`, "nothing is run again"},
		{"a panic", `
func TestA(t *testing.T) { flaky(t, "a"); if t.Failed() { panic("once") } }
func TestB(t *testing.T) {}`, "nothing is run again"},
		{"a fatal error", `
func TestA(t *testing.T) {
	flaky(t, "a")
	if t.Failed() { m := map[int]int{}; go func() { for { m[1] = 1 } }(); for { m[1] = 2 } }
}`, "nothing is run again"},
		{"an exit", `func TestA(t *testing.T) { flaky(t, "a"); if t.Failed() { os.Exit(1) } }`, "nothing is run again"},
		{"a failing TestMain", `
func TestA(t *testing.T) {}
func TestMain(m *testing.M) { m.Run(); os.Exit(1) }`, "nothing is run again"},
		{"a timeout", `func TestA(t *testing.T) { flaky(t, "a"); if t.Failed() { time.Sleep(time.Hour) } }`, "nothing is run again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, report, err := modules(t, c.body, "-timeout=20s")
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %v, without %q\n%s", err, c.says, out)
			}
			if report != "" {
				t.Errorf("reported as passed: %s", report)
			}
			if c.name != "what does not build" && c.name != "what vet refuses" && !strings.Contains(out, "FAIL\tm/a") {
				t.Errorf("not what go test prints:\n%s", out)
			}
		})
	}
}

// With -v, the output of passing tests is printed too.
func TestVerbose(t *testing.T) {
	out, _, err := modules(t, `func TestA(t *testing.T) {}`, "-v")
	if err != nil || !strings.Contains(out, "unseen") || !strings.Contains(out, "=== RUN   TestA\n") || strings.Count(out, "--- PASS: TestA") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestNoPackageIsAnError(t *testing.T) {
	for _, arguments := range [][]string{nil, {"-race"}, {"-shuffle=on", "./..."}} {
		if err := command(t.Context(), arguments, &bytes.Buffer{}); err == nil {
			t.Errorf("%q is accepted", arguments)
		}
	}
}
