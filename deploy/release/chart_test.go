package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/boifi/hfi/internal/testtool"
)

// The chart of a release has its version and the tag of its image, and is the
// same bytes whatever the times and modes of the files in the source tree.
func TestTheChartOfARelease(t *testing.T) {
	helm := testtool.Path(t, "helm")
	at := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	var first []byte
	for i, mode := range []fs.FileMode{0o644, 0o600} {
		source := t.TempDir()
		chart := filepath.Join(source, chartFolder)
		if err := os.CopyFS(chart, os.DirFS(filepath.Join(testtool.Root(), chartFolder))); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(chart, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			return errors.Join(os.Chmod(path, mode), os.Chtimes(path, time.Time{}, at.Add(time.Duration(i)*time.Hour)))
		})
		if err != nil {
			t.Fatal(err)
		}
		files := t.TempDir()
		r := release{source: source, version: "v1.2.3", at: at, helm: helm}
		if err := r.chart(t.Context(), t.TempDir(), files); err != nil {
			t.Fatal(err)
		}
		if names := fileNames(t, files); len(names) != 1 || names[0] != "hfi-1.2.3.tgz" {
			t.Fatalf("the chart's files are %q", names)
		}
		archive := filepath.Join(files, "hfi-1.2.3.tgz")
		content := read(t, archive)
		if first == nil {
			first = content
		} else if !bytes.Equal(first, content) {
			t.Error("the two charts differ")
		}
		out, err := exec.CommandContext(t.Context(), helm, "template", "hfi", archive, "--namespace", "boifi").CombinedOutput()
		if err != nil || !strings.Contains(string(out), "hfi-control-plane:v1.2.3") {
			t.Errorf("the image of the release's tag is not in what the chart renders: %v\n%s", err, out)
		}
		for name, packed := range chartTimes(t, content) {
			if !packed.Equal(at) {
				t.Errorf("%s has the time %s", name, packed)
			}
		}
	}
	r := release{source: t.TempDir(), version: "v1.2.3", at: at, helm: helm}
	if err := r.chart(t.Context(), t.TempDir(), t.TempDir()); err == nil {
		t.Error("a source tree without a chart is no error")
	}
}

// chartTimes are the times of a chart's files.
func chartTimes(t *testing.T, archive []byte) map[string]time.Time {
	t.Helper()
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]time.Time{}
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		times[header.Name] = header.ModTime
	}
	if len(times) < 10 {
		t.Errorf("the chart has %d files", len(times))
	}
	return times
}
