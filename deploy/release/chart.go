package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// chartFolder is the chart's, in the source tree.
const chartFolder = "deploy/helm/hfi"

// chart packages the chart by Helm, for the release's version. Helm keeps the
// times of files, so it gets a copy of them with that of the release.
func (r release) chart(ctx context.Context, work, files string) error {
	chart := filepath.Join(work, "chart")
	if err := os.CopyFS(chart, os.DirFS(filepath.Join(r.source, chartFolder))); err != nil {
		return fmt.Errorf("copying the chart: %w", err)
	}
	err := filepath.WalkDir(chart, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, time.Time{}, r.at)
	})
	if err != nil {
		return fmt.Errorf("setting the times of the chart's files: %w", err)
	}
	// A chart's version has no v. The daemon's image has the tag's name.
	command := exec.CommandContext(ctx, r.helm, "package", chart,
		"--version", strings.TrimPrefix(r.version, "v"), "--app-version", r.version, "--destination", files)
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("packaging the chart: %w: %s", err, output)
	}
	return nil
}
