// Command compile compiles the filter without the parts of Go's standard library that
// never run in it:
//
//	go run ./filter/compile [-tags TAGS] -o OUT
//	go run ./filter/compile [-tags TAGS] -sizes
//
// Envoy compiles the whole module before the first request, so the start and the memory
// of each sidecar grow with the module's code. Most of that code is the Go runtime. The
// functions in unused.go only trace, profile, dump or wait, or serve what the filter does
// not have, such as files and timers. They are compiled with an empty body, and Go's
// linker then leaves out what only they use.
//
// The sources of Go are not changed: the go command replaces them by its flag -overlay.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command and returns its exit code, 0 or 1.
func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("compile", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprintln(stderr, "usage: compile [-tags TAGS] -o OUT | -sizes") }
	out := flags.String("o", "", "the file to write")
	tags := flags.String("tags", "", "build tags, separated by commas")
	sizes := flags.Bool("sizes", false, "print what makes the module large, instead of writing it")
	if err := flags.Parse(args); err != nil {
		return 1
	}
	if (*out == "") != *sizes || flags.NArg() != 0 {
		flags.Usage()
		return 1
	}
	var err error
	if *sizes {
		err = printSizes(stdout, *tags)
	} else {
		err = compile(*out, *tags, "-s -w -buildid=")
	}
	if err != nil {
		fmt.Fprintln(stderr, "compile:", err)
		return 1
	}
	return 0
}

// compile compiles the filter into a file.
func compile(out, tags, ldflags string) (err error) {
	folder, err := os.MkdirTemp("", "hfi-compile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	goroot, err := root(folder)
	if err != nil {
		return err
	}
	build := toolchain{goroot}
	overlay, err := build.overlay(folder, unused)
	if err != nil {
		return err
	}
	_, err = build.run("build", "-overlay", overlay, "-buildmode=c-shared", "-trimpath", "-buildvcs=false",
		"-ldflags="+ldflags, "-tags="+tags, "-o", out, "./filter")
	return err
}

// root returns the GOROOT to compile with. The go command accepts no replacement of a
// file in the module cache, where it keeps toolchains that it has downloaded. For those,
// it is a link in the given folder.
func root(folder string) (string, error) {
	output, err := exec.Command("go", "env", "GOROOT", "GOMODCACHE").Output()
	if err != nil {
		return "", fmt.Errorf("asking for the folder of Go: %w", err)
	}
	goroot, cache, _ := strings.Cut(strings.TrimSpace(string(output)), "\n")
	if within, err := filepath.Rel(cache, goroot); err != nil || !filepath.IsLocal(within) {
		return goroot, nil
	}
	link := filepath.Join(folder, "go")
	return link, os.Symlink(goroot, link)
}

// toolchain is a Go toolchain that compiles for Envoy.
type toolchain struct{ root string }

// run runs the go command and returns its output.
func (t toolchain) run(args ...string) ([]byte, error) {
	command := exec.Command(filepath.Join(t.root, "bin", "go"), args...)
	command.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm", "GOROOT="+t.root, "GOTOOLCHAIN=local")
	var stderr strings.Builder
	command.Stderr = &stderr
	output, err := command.Output()
	if err != nil {
		return nil, fmt.Errorf("%q: %w\n%s%s", command.Args, err, output, stderr.String())
	}
	return output, nil
}

// review returns an error unless a version of Go is of the minor version reviewed.
func review(version string) error {
	if release, _, _ := strings.Cut(version, " "); release != reviewed && !strings.HasPrefix(release, reviewed+".") {
		return fmt.Errorf("unused.go is reviewed for %s, and this is %s: read what it says about another version", reviewed, version)
	}
	return nil
}

// replacedBefore returns the files that an overlay in GOFLAGS replaces: the flag of this
// build takes its place. Tests of tests give one.
func replacedBefore() (map[string]string, error) {
	overlay := struct{ Replace map[string]string }{Replace: map[string]string{}}
	for flag := range strings.FieldsSeq(os.Getenv("GOFLAGS")) {
		file, given := strings.CutPrefix("-"+strings.TrimLeft(flag, "-"), "-overlay=")
		if !given {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the overlay of GOFLAGS: %w", err)
		}
		if err := json.Unmarshal(text, &overlay); err != nil {
			return nil, fmt.Errorf("reading the overlay of GOFLAGS, %s: %w", file, err)
		}
	}
	return overlay.Replace, nil
}

// overlay writes the changed sources and the go command's description of them, whose
// name it returns, into a folder.
func (t toolchain) overlay(folder string, groups []group) (string, error) {
	byPackage := map[string]map[string]*function{}
	var paths []string
	for i := range groups {
		for j := range groups[i].functions {
			f := &groups[i].functions[j]
			if byPackage[f.pkg] == nil {
				byPackage[f.pkg] = map[string]*function{}
				paths = append(paths, f.pkg)
			}
			if byPackage[f.pkg][f.name] != nil {
				return "", fmt.Errorf("%s.%s is listed twice", f.pkg, f.name)
			}
			byPackage[f.pkg][f.name] = f
		}
	}
	output, err := t.run("env", "GOVERSION")
	if err != nil {
		return "", err
	}
	if err := review(strings.TrimSpace(string(output))); err != nil {
		return "", err
	}
	output, err = t.run(append([]string{"list", "-json=ImportPath,Dir,GoFiles"}, paths...)...)
	if err != nil {
		return "", err
	}
	replaced, err := replacedBefore()
	if err != nil {
		return "", err
	}
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; {
		var listed struct {
			ImportPath, Dir string
			GoFiles         []string
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		wanted := byPackage[listed.ImportPath]
		for _, name := range listed.GoFiles {
			original := filepath.Join(listed.Dir, name)
			source, err := os.ReadFile(original)
			if err != nil {
				return "", err
			}
			changed, err := empty(source, name, wanted)
			if err != nil {
				return "", fmt.Errorf("%s: %w", original, err)
			}
			if changed == nil {
				continue
			}
			file := filepath.Join(folder, strings.ReplaceAll(listed.ImportPath, "/", "_")+"_"+name)
			if err := os.WriteFile(file, changed, 0o600); err != nil {
				return "", err
			}
			replaced[original] = file
		}
		for name, f := range wanted {
			if !f.found {
				return "", fmt.Errorf("%s has no function %s: has this version of Go renamed it? See unused.go", listed.ImportPath, name)
			}
		}
	}
	description, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return "", err
	}
	file := filepath.Join(folder, "overlay.json")
	return file, os.WriteFile(file, description, 0o600)
}
