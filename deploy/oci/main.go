// Command oci is what "make oci" runs: it builds the daemon's image and the
// filter's artefact, writes them as OCI image layouts, and pushes them if -push
// is given. It needs Go and no container engine. The build is reproducible.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/boifi/hfi/internal/gobuild"
	"github.com/boifi/hfi/internal/oci"
)

func main() {
	var o options
	flag.StringVar(&o.source, "source", ".", "the repository's root `folder`")
	flag.StringVar(&o.module, "filter", "bin/filter.wasm", "the filter's module, a `file`")
	flag.StringVar(&o.out, "out", "dist", "the `folder` to write to")
	flag.StringVar(&o.version, "version", "dev", "the `tag`")
	flag.StringVar(&o.push, "push", "", "push to `PREFIX`/"+oci.DaemonName+" and PREFIX/"+oci.FilterName)
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

type options struct {
	source, module, out, version, push string
}

func run(ctx context.Context, o options) error {
	module, err := os.ReadFile(o.module)
	if err != nil {
		return fmt.Errorf("reading the filter: %w", err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	commit, err := gobuild.Commit(ctx, o.source)
	if err != nil {
		return err
	}
	stamp := gobuild.Stamp{Version: o.version, Commit: commit}
	var each []oci.Programs
	for _, architecture := range oci.Architectures {
		programs, err := oci.Compile(ctx, o.source, architecture, stamp)
		if err != nil {
			return err
		}
		each = append(each, programs)
	}
	daemon, err := oci.Daemon(o.version, module, each)
	if err != nil {
		return err
	}
	filter, err := oci.Filter(o.version, module)
	if err != nil {
		return err
	}
	files := []string{filepath.Join(o.out, oci.DaemonName+".tar"), filepath.Join(o.out, oci.FilterName+".tar")}
	if err := oci.WriteIndex(files[0], o.version, daemon); err != nil {
		return err
	}
	if err := oci.WriteImage(files[1], o.version, filter); err != nil {
		return err
	}
	for _, file := range files {
		fmt.Println("wrote", file)
	}
	if o.push == "" {
		return nil
	}
	pushed, err := oci.Push(ctx, o.push, o.version, daemon, filter)
	for _, reference := range pushed {
		fmt.Println("pushed", reference)
	}
	return err
}
