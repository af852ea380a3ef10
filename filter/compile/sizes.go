package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// printSizes compiles the filter and prints the bytes of code of each package and of its
// largest functions. This shows what an import costs.
func printSizes(out io.Writer, tags string) (err error) {
	folder, err := os.MkdirTemp("", "hfi-compile-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	file := filepath.Join(folder, "filter.wasm")
	if err := compile(file, tags, "-buildid="); err != nil { // with names
		return err
	}
	module, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	functions, err := functionSizes(module)
	if err != nil {
		return fmt.Errorf("reading the module: %w", err)
	}
	packages := map[string]int{}
	all := 0
	for name, size := range functions {
		packages[packageOf(name)] += size
		all += size
	}
	fmt.Fprintf(out, "%8d bytes of code\n", all)
	for _, sizes := range []map[string]int{packages, functions} {
		fmt.Fprintln(out)
		bySize := func(a, b string) int { return cmp.Or(sizes[b]-sizes[a], strings.Compare(a, b)) }
		for i, name := range slices.SortedFunc(maps.Keys(sizes), bySize) {
			if i == 50 {
				break
			}
			fmt.Fprintf(out, "%8d %s\n", sizes[name], name)
		}
	}
	return nil
}

// packageOf returns the package of a function. The Go linker replaces characters of names
// by _, so a folder and its parent are not told apart.
func packageOf(function string) string {
	pkg, _, _ := strings.Cut(function, ".")
	return pkg
}

// functionSizes returns the size of each function in a module, by its name in the section
// of names.
func functionSizes(module []byte) (map[string]int, error) {
	const sectionCustom, sectionImport, sectionCode, functionNames = 0, 2, 10, 1
	var sizes []int
	names := map[int]string{}
	imports := 0
	r := &reader{rest: module}
	r.bytes(8) // the header
	for len(r.rest) > 0 {
		id := r.bytes(1)[0]
		section := &reader{rest: r.bytes(r.number())}
		switch id {
		case sectionImport:
			for range section.number() {
				section.bytes(section.number())
				section.bytes(section.number())
				section.bytes(1) // its kind, which is always a function in Go's modules
				section.number()
				imports++
			}
		case sectionCode:
			for range section.number() {
				size := section.number()
				section.bytes(size)
				sizes = append(sizes, size)
			}
		case sectionCustom:
			if string(section.bytes(section.number())) != "name" {
				break
			}
			for len(section.rest) > 0 {
				kind := section.bytes(1)[0]
				part := &reader{rest: section.bytes(section.number())}
				if kind != functionNames {
					continue
				}
				for range part.number() {
					index := part.number()
					names[index] = string(part.bytes(part.number()))
				}
			}
		}
		if section.short {
			return nil, errors.New("unexpected end of a section")
		}
	}
	if r.short || len(sizes) == 0 {
		return nil, errors.New("unexpected end")
	}
	functions := map[string]int{}
	for i, size := range sizes {
		functions[names[imports+i]] += size
	}
	return functions, nil
}

// reader reads a Wasm module. After the end it returns zeros.
type reader struct {
	rest  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.rest) {
		r.short, r.rest = true, nil
		return make([]byte, 1)
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *reader) number() int {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 || n > 1<<31 {
		r.short, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return int(n)
}
