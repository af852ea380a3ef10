// Command release is what "make release" runs: it builds hfi for every
// platform, packs it into archives, makes the images, and writes a bill of
// materials and checksums. It needs Go, and git or SOURCE_DATE_EPOCH. The same
// commit and Go release give the same bytes, on every machine.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/boifi/hfi/internal/gobuild"
)

func main() {
	var r release
	flag.StringVar(&r.source, "source", ".", "the repository's root `folder`")
	flag.StringVar(&r.filter, "filter", "bin/filter.wasm", "the filter's module, a `file`")
	flag.StringVar(&r.helm, "helm", ".tools/bin/helm", "Helm's `program`")
	flag.StringVar(&r.out, "out", "dist", "the `folder` to write to")
	flag.StringVar(&r.version, "version", "", "the release's `tag`, such as v1.2.3")
	list := flag.String("platforms", platforms, "the `platforms`, as GOOS/GOARCH, separated by commas")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, r, *list); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, r release, platforms string) error {
	for text := range strings.SplitSeq(platforms, ",") {
		target, err := gobuild.ParseTarget(text)
		if err != nil {
			return fmt.Errorf("-platforms: %w", err)
		}
		r.targets = append(r.targets, target)
	}
	var err error
	if r.commit, err = gobuild.Commit(ctx, r.source); err != nil {
		return err
	}
	if strings.HasSuffix(r.commit, "-dirty") {
		fmt.Fprintln(os.Stderr, "release: there are uncommitted changes: the programs say so of their commit")
	}
	if r.at, err = gobuild.Time(ctx, r.source); err != nil {
		return err
	}
	names, err := r.make(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		fmt.Println("wrote", filepath.Join(r.out, name))
	}
	return nil
}
