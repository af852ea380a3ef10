package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// at is the time of what these tests pack.
var at = time.Date(2026, 11, 25, 13, 0, 4, 0, time.UTC)

// unpacked is a file of an archive.
type unpacked struct {
	mode    fs.FileMode
	at      time.Time
	content []byte
}

// unpack reads an archive of either format, whose entries must be files in order.
func unpack(t *testing.T, file string) map[string]unpacked {
	t.Helper()
	files, last := map[string]unpacked{}, ""
	add := func(name string, mode fs.FileMode, at time.Time, content io.Reader) {
		t.Helper()
		text, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		if name <= last || !mode.IsRegular() {
			t.Errorf("%s: %s, of mode %s, comes after %s", file, name, mode, last)
		}
		files[name], last = unpacked{mode.Perm(), at.UTC(), text}, name
	}
	if strings.HasSuffix(file, ".zip") {
		archive, err := zip.OpenReader(file)
		if err != nil {
			t.Fatal(err)
		}
		defer archive.Close()
		for _, each := range archive.File {
			content, err := each.Open()
			if err != nil {
				t.Fatal(err)
			}
			add(each.Name, each.Mode(), each.Modified, content)
			_ = content.Close()
		}
		return files
	}
	raw, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	plain, err := gzip.NewReader(raw)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(plain); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.Uname != "" || header.Gname != "" {
			t.Errorf("%s: %s belongs to somebody: %+v", file, header.Name, header)
		}
		add(header.Name, header.FileInfo().Mode(), header.ModTime, archive)
	}
}

// Only the content of an archive determines its bytes: not when, by whom or where
// the files were written, nor in which order they are given.
func TestArchivesAreReproducible(t *testing.T) {
	for _, name := range []string{"a.tar.gz", "a.zip"} {
		t.Run(name, func(t *testing.T) {
			var archives [][]byte
			var file string
			for i := range 2 {
				folder := t.TempDir()
				var entries []entry
				for name, content := range map[string]string{"hfi": "a program", "LICENSE": strings.Repeat("text ", 1000), "empty": ""} {
					from := filepath.Join(folder, fmt.Sprint(i, name))
					if err := os.WriteFile(from, []byte(content), fs.FileMode(0o600+i*0o40)); err != nil {
						t.Fatal(err)
					}
					if err := os.Chtimes(from, at, at.AddDate(0, 0, i)); err != nil {
						t.Fatal(err)
					}
					mode := fs.FileMode(0o644)
					if name == "hfi" {
						mode = 0o755
					}
					entries = append(entries, entry{name, mode, from})
				}
				slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) * (1 - 2*i) })
				file = filepath.Join(folder, name)
				if err := writeArchive(file, "hfi-v1", at, entries); err != nil {
					t.Fatal(err)
				}
				content, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				archives = append(archives, content)
			}
			if !bytes.Equal(archives[0], archives[1]) {
				t.Error("the same files make different archives")
			}
			files := unpack(t, file)
			if got := slices.Sorted(maps.Keys(files)); !slices.Equal(got, []string{"hfi-v1/LICENSE", "hfi-v1/empty", "hfi-v1/hfi"}) {
				t.Errorf("the archive holds %q", got)
			}
			for name, mode := range map[string]fs.FileMode{"hfi-v1/hfi": 0o755, "hfi-v1/LICENSE": 0o644} {
				if got := files[name]; got.mode != mode || !got.at.Equal(at) {
					t.Errorf("%s has mode %s and time %s, want %s and %s", name, got.mode, got.at, mode, at)
				}
			}
			if got := string(files["hfi-v1/hfi"].content); got != "a program" {
				t.Errorf("hfi holds %q", got)
			}
		})
	}
}

func TestAnArchiveReplacesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(file, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := writeArchive(file, "a", at, nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("writing over a file: %v", err)
	}
	if err := writeArchive(file+".tar.gz", "a", at, []entry{{"x", 0o644, file + ".missing"}}); err == nil {
		t.Error("a file that is missing was packed")
	}
}

// Stock sha256sum takes the checksums, and sees what has changed.
func TestChecksums(t *testing.T) {
	folder := t.TempDir()
	for name, content := range map[string]string{"b.zip": "two", "a.tar.gz": "one", "filter.wasm": ""} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeSums(folder); err != nil {
		t.Fatal(err)
	}
	check := func() (string, error) {
		command := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", sumsName)
		command.Dir = folder
		output, err := command.Output()
		return string(output), err
	}
	if got, err := check(); err != nil || got != "a.tar.gz: OK\nb.zip: OK\nfilter.wasm: OK\n" {
		t.Errorf("sha256sum says %q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(folder, "b.zip"), []byte("tampered with"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := check(); err == nil || !strings.Contains(got, "b.zip: FAILED") {
		t.Errorf("of a file that has changed sha256sum says %q, %v", got, err)
	}
}

// A version that is no tag makes nothing, whatever is there.
func TestTheVersionIsATag(t *testing.T) {
	for _, version := range []string{"", "dev", "1.2.3", "v1.2", "v1.2.3+dirty", "v1.2.3 -X"} {
		out := filepath.Join(t.TempDir(), "dist")
		if _, err := (release{out: out, version: version}).make(t.Context()); err == nil || !strings.Contains(err.Error(), "must be a tag such as v1.2.3") {
			t.Errorf("version %q: %v", version, err)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("version %q: something was made", version)
		}
	}
}
