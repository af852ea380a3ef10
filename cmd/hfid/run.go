package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/reconciler/etcd"
	"github.com/boifi/hfi/reconciler/git"
	"github.com/boifi/hfi/reconciler/http"
	"github.com/boifi/hfi/reconciler/lastgood"
)

// shutdownLimit bounds how long answers under way may take once the daemon is told to stop.
const shutdownLimit = 5 * time.Second

// run wires the daemon, and returns when the context ends or the service fails.
func run(ctx context.Context, o options) (err error) {
	logger, err := newLogger(o.logLevel)
	if err != nil {
		return err
	}
	data := datadir.Folder(o.dataDir)
	lock, err := data.Lock(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, "the data folder's lock", lock.Close)

	disk := lastgood.New(data.LastGood(), logger)
	store := etcd.New(o.etcdPrefix, o.replica, logger)
	store.Access, store.DataDir = o.etcd, o.dataDir
	if len(o.etcd.Endpoints) == 0 {
		store.Embedded = etcd.NewEmbedded(o.dataDir, logger)
		store.Embedded.Listen = o.etcdListen
	}
	// A damaged copy is told of by the reconciler, which loads it too.
	if kept, err := disk.Load(); err == nil && kept != nil {
		store.Known = kept.Revision
	}
	source := git.New(o.repo, o.branch, o.path, data.Git())
	source.Timeout, source.Logger = o.gitTimeout, logger
	source.TokenFile, source.Username, source.PasswordFile = o.gitTokenFile, o.gitUsername, o.gitPasswordFile
	source.SSHKeyFile, source.KnownHostsFile, source.CABundleFile = o.gitSSHKeyFile, o.gitKnownHostsFile, o.gitCA

	loop := reconciler.New(source, cue.New(o.path), store, disk, nil)
	loop.ID, loop.URL, loop.Branch, loop.Path = o.replica, source.DisplayURL(), o.branch, o.path
	loop.Interval, loop.DriftMode, loop.Logger = o.interval, o.drift, logger
	service := http.New(loop)
	service.Logger, service.ID, service.Replicas = logger, o.replica, store.Replicas
	if service.Filter, err = readFilter(o.filter); err != nil {
		return err
	}
	ballast := newBallast()
	defer ballast.wait()
	cluster, err := newCluster(o.kube, loop, service, store.Replicas, logger)
	if err != nil {
		return err
	}
	serve := service.SetState
	if cluster != nil {
		serve = func(state *reconciler.State) {
			service.SetState(state)
			cluster.Serve(state)
		}
	}
	loop.Serve, loop.Observer = ballast.before(serve), service.Metrics
	if o.webhookSecretFile != "" {
		service.WebhookSecret = func() (string, error) {
			secret, err := os.ReadFile(o.webhookSecretFile)
			return strings.TrimSpace(string(secret)), err
		}
	}

	// The address is taken first: that it is in use is told before anything else starts.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening on --listen %s: %w", o.listen, err)
	}
	if store.Advertise = o.advertise; store.Advertise == "" {
		store.Advertise = reachable(listener.Addr())
	}
	served := make(chan error, 1)
	go func() { served <- service.Serve(listener) }()
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
		defer cancel()
		err = errors.Join(err, service.Shutdown(limit), <-served)
	}()
	logger.Info("listening", "address", "http://"+listener.Addr().String(), "repo", source.DisplayURL(), "branch", o.branch, "path", o.path,
		"advertise", store.Advertise, "filter_bytes", len(service.Filter))

	if err := source.Open(ctx); err != nil {
		return fmt.Errorf("opening the policy repository: %w", err)
	}
	defer closing(&err, "the policy repository", source.Close)
	if err := store.Open(ctx); err != nil {
		return fmt.Errorf("opening etcd: %w", err)
	}
	defer closing(&err, "etcd", store.Close)
	if cluster != nil {
		if err := cluster.Open(ctx); err != nil {
			return fmt.Errorf("looking at the Kubernetes cluster: %w", err)
		}
		defer closing(&err, "the Kubernetes cluster", cluster.Close)
	}
	if err := loop.Open(ctx); err != nil {
		return err
	}
	defer closing(&err, "the reconciler", loop.Close)

	select {
	case <-ctx.Done():
		logger.Info("stopping")
		return nil
	case failure := <-served:
		served <- nil
		return fmt.Errorf("serving HTTP: %w", failure)
	}
}

// reachable is the URL of a listener, or empty if that does not name a host.
func reachable(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		return "http://" + tcp.String()
	}
	return ""
}

// readFilter reads the filter's module: the file named or, if none is, the
// one beside this program, which need not be there.
func readFilter(path string) ([]byte, error) {
	named := path != ""
	if !named {
		program, err := os.Executable()
		if err != nil {
			return nil, nil
		}
		path = filepath.Join(filepath.Dir(program), "filter.wasm")
	}
	module, err := os.ReadFile(path)
	switch {
	case !named && errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("reading the filter (--filter): %w", err)
	case !bytes.HasPrefix(module, []byte("\x00asm")):
		return nil, fmt.Errorf("reading the filter (--filter): %s is no Wasm module", path)
	}
	return module, nil
}

func closing(err *error, what string, close func() error) {
	if closeErr := close(); closeErr != nil {
		*err = errors.Join(*err, fmt.Errorf("closing %s: %w", what, closeErr))
	}
}

func newLogger(level string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: least})), nil
}
