// Command hfid is the daemon: it follows a branch of a git repository,
// publishes its fault policies to etcd, and serves them to filters.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/boifi/hfi/reconciler/cue"
)

func main() {
	cue.RunChild()
	tuneCollector()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "hfid: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// tuneCollector halves the number of garbage collections, for more memory: a
// start, which validates all policies, takes about a tenth less time. GOGC in
// the environment takes precedence.
func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}
