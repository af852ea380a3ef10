// Command hfid is the daemon: it follows a branch of a git repository,
// publishes its fault policies to etcd, and serves them to filters.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/reconciler/etcd"
)

func main() {
	cue.RunChild()
	etcd.RunServer()
	tuneCollector()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newCommand().ExecuteContext(ctx)
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "hfid: %v\n", err)
	stop()
	code := exitUsage
	if failure := (*runError)(nil); errors.As(err, &failure) {
		code = exitFailure
	}
	os.Exit(code)
}

// delayed returns a context that ends some time after another one does.
func delayed(ctx context.Context, delay time.Duration) (context.Context, context.CancelFunc) {
	if delay <= 0 {
		return context.WithCancel(ctx)
	}
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(delay, cancel) })
	return later, cancel
}

// The exit codes: a failure of the daemon, and flags or variables that are wrong.
const (
	exitFailure = 1
	exitUsage   = 2
)

// runError is an error of the daemon itself, after its settings were found to be right.
type runError struct{ error }

func (e *runError) Unwrap() error { return e.error }

// tuneCollector halves the number of garbage collections, for more memory, until
// collectAsUsual: a start, which validates all policies, takes about a tenth less
// time. GOGC in the environment takes precedence.
func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
}

// collectAsUsual ends tuneCollector: from then on the memory counts.
func collectAsUsual() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(100)
	}
}
