package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCommand(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.wasm"), filepath.Join(dir, "out.wasm")
	original := tiny().encode()
	write(t, in, original)
	var said bytes.Buffer
	if exit := run([]string{"-o", out, in}, &said); exit != 0 || said.Len() > 0 {
		t.Fatalf("exit code %d with output %q", exit, said.String())
	}
	if !bytes.Equal(read(t, out), mustRewrite(t, original)) {
		t.Error("the file is not the rewritten module")
	}
	info, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o044 != 0o044 {
		t.Errorf("the module has mode %v, which does not let everyone read it", info.Mode())
	}
	if !bytes.Equal(read(t, in), original) {
		t.Error("the original has changed")
	}
	only(t, dir, "in.wasm", "out.wasm")
}

func TestErrorsWriteNothing(t *testing.T) {
	dir := t.TempDir()
	bad, out := filepath.Join(dir, "bad.wasm"), filepath.Join(dir, "out.wasm")
	good, folder := filepath.Join(dir, "good.wasm"), filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, bad, []byte("#!/bin/sh\n"))
	write(t, good, tiny().encode())
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"-o", out, bad}, "not a Wasm module"},
		{[]string{"-o", out, filepath.Join(dir, "none.wasm")}, "none.wasm"},
		{[]string{"-o", filepath.Join(dir, "no", "folder.wasm"), good}, "writing the module"},
		{[]string{"-o", folder, good}, "writing the module"},
		{[]string{"-o", out}, "usage: link -o OUT IN"},
		{[]string{good}, "usage: link -o OUT IN"},
		{[]string{"-x", good}, "-x"},
	} {
		var said bytes.Buffer
		if exit := run(c.args, &said); exit != 1 || !strings.Contains(said.String(), c.want) {
			t.Errorf("%q: exit code %d with output %q, want 1 and %q", c.args, exit, said.String(), c.want)
		}
		only(t, dir, "bad.wasm", "folder", "good.wasm")
	}

	write(t, out, []byte("the one before"))
	if exit := run([]string{"-o", out, bad}, &bytes.Buffer{}); exit != 1 {
		t.Errorf("exit code %d, want 1", exit)
	}
	if got := read(t, out); string(got) != "the one before" {
		t.Errorf("the existing file has changed to %q", got)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// only checks that a folder has exactly these files, sorted by name.
func only(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("the folder has %q, want %q", names, want)
	}
}
