package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/boifi/hfi/internal/datadir"
	"github.com/boifi/hfi/internal/statekey"
	"github.com/boifi/hfi/reconciler"
	"github.com/boifi/hfi/reconciler/cue"
	"github.com/boifi/hfi/reconciler/etcd"
	"github.com/boifi/hfi/reconciler/fleet"
	"github.com/boifi/hfi/reconciler/git"
	"github.com/boifi/hfi/reconciler/git/signature"
	"github.com/boifi/hfi/reconciler/http"
	"github.com/boifi/hfi/reconciler/lastgood"
	"github.com/boifi/hfi/reconciler/served"
)

// shutdownLimit bounds the time for open requests when the daemon stops.
const shutdownLimit = 5 * time.Second

// run assembles the daemon, runs it until the context ends, the HTTP service
// fails or another daemon has the data folder, and closes what it opened in
// reverse order.
func run(ctx context.Context, o options) (err error) {
	logger, err := newLogger(os.Stderr, o.logLevel, o.logFormat)
	if err != nil {
		return err
	}
	data := datadir.Folder(o.dataDir)
	lock, err := data.Lock(ctx)
	if err != nil {
		return err
	}
	defer closing(&err, "the data folder's lock", lock.Close)
	// The daemon ends when it has lost the folder to another.
	ctx, end := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	var lost error
	defer func() {
		end()
		keeper.Wait()
		err = errors.Join(err, lost)
	}()
	keeper.Go(func() {
		if lost = lock.Keep(ctx, logger); lost != nil {
			end()
		}
	})

	keys, err := stateKeys(o, data)
	if err != nil {
		return err
	}
	if keys.IsNone() {
		logger.Warn("what is in etcd is not authenticated (--state-key-file none): who can write there can change what is served")
	}
	if warning := keys.Readable(); warning != "" {
		logger.Warn(warning)
	}
	disk := lastgood.New(data.LastGood(), keys, logger)
	store := etcd.New(o.etcdPrefix, o.replica, logger)
	store.Access, store.DataDir, store.StateKeys = o.etcd, o.dataDir, keys
	if len(o.etcd.Endpoints) == 0 {
		store.Embedded = etcd.NewEmbedded(o.dataDir, logger)
		store.Embedded.Listen = o.etcdListen
	}
	// The reconciler loads this copy too, and logs it if it is damaged.
	kept, loadErr := disk.Load()
	if kept != nil {
		store.Known = kept.Revision
	}
	source := git.New(o.repo, o.branch, o.path, data.Git())
	source.Timeout, source.Logger = o.gitTimeout, logger
	source.TokenFile, source.Username, source.PasswordFile = o.gitTokenFile, o.gitUsername, o.gitPasswordFile
	source.SSHKeyFile, source.SSHPassphraseFile, source.KnownHostsFile = o.gitSSHKeyFile, o.gitSSHPassphraseFile, o.gitKnownHostsFile
	source.CABundleFile, source.ClientCertFile, source.ClientKeyFile = o.gitCA, o.gitClientCertFile, o.gitClientKeyFile
	if o.verifies() {
		source.Signatures = &signature.Files{Signers: o.gitVerifySigners, Keyring: o.gitVerifyKeyring, Approvers: o.gitApprovers}
	}

	policyFiles := cue.New(o.path)
	policyFiles.LimitsFile = o.limits
	loop := reconciler.New(source, policyFiles, store, disk, nil)
	loop.ID, loop.URL, loop.Branch, loop.Path = o.replica, source.DisplayURL(), o.branch, o.path
	loop.Interval, loop.DriftMode, loop.Logger = o.interval, o.drift, logger
	loop.Verify = reconciler.VerifyMode(o.gitVerify)
	loop.ValidateEarly = store.Embedded != nil // Then there is no other replica.
	module, err := readFilter(o.filter)
	if err != nil {
		return err
	}

	// From here on each part knows only those before it.
	policies := served.New()
	policies.Logger = logger
	filters := fleet.New(o.replica, policies)
	filters.Replicas = store.Replicas
	cluster, err := newCluster(o.kube, loop, filters, module, logger)
	if err != nil {
		return err
	}
	service := http.New(loop, policies, filters)
	service.Logger, service.Filter, service.Hosts = logger, module, o.allowedHosts
	serve := policies.Serve
	if cluster != nil {
		service.Cluster = cluster
		serve = func(state *reconciler.State) {
			policies.Serve(state)
			cluster.Serve(state)
		}
	}
	if errors.Is(loadErr, lastgood.ErrForged) {
		service.Metrics.Forged("last-good", 1)
	}
	ballast := newBallast()
	defer ballast.wait()
	loop.Serve, loop.Observer, store.Forged = ballast.before(serve), service.Metrics, service.Metrics.Forged
	if o.webhookSecretFile != "" {
		service.WebhookSecret = func() (string, error) {
			secret, err := os.ReadFile(o.webhookSecretFile)
			return strings.TrimSpace(string(secret)), err
		}
	}

	// Listen first, to fail before anything else starts if the address is in use.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listening on --listen %s: %w", o.listen, err)
	}
	if store.Advertise = o.advertise; store.Advertise == "" {
		store.Advertise = reachable(listener.Addr())
	}
	filters.Open()
	defer closing(&err, "the fleet of filters", filters.Close)
	stopped := make(chan error, 1)
	go func() { stopped <- service.Serve(listener) }()
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
		defer cancel()
		err = errors.Join(err, service.Shutdown(limit), <-stopped)
	}()
	logger.Info("listening", "address", "http://"+listener.Addr().String(), "repo", source.DisplayURL(), "branch", o.branch, "path", o.path,
		"advertise", store.Advertise, "filter_bytes", len(module))

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
			return fmt.Errorf("opening the Kubernetes cluster: %w", err)
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
	case failure := <-stopped:
		stopped <- nil
		return fmt.Errorf("serving HTTP: %w", failure)
	}
}

// stateKeys returns the keys of --state-key-file. Without it a daemon with an
// embedded etcd, which no other daemon uses, has a key of its own.
func stateKeys(o options, data datadir.Folder) (*statekey.Keys, error) {
	switch o.stateKeyFile {
	case "":
		return statekey.OpenOrCreate(data.StateKey())
	case noStateKey:
		return statekey.None(), nil
	}
	return statekey.Open(o.stateKeyFile)
}

// reachable returns the URL of a listener, or empty if it listens on all addresses.
func reachable(address net.Addr) string {
	if tcp, ok := address.(*net.TCPAddr); ok && !tcp.IP.IsUnspecified() {
		return "http://" + tcp.String()
	}
	return ""
}

// readFilter reads the filter's module from path or, if that is empty, from
// filter.wasm beside this program, if there is one.
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
		return nil, fmt.Errorf("reading the filter (--filter): %s is not a Wasm module", path)
	}
	return module, nil
}

func closing(err *error, what string, close func() error) {
	if closeErr := close(); closeErr != nil {
		*err = errors.Join(*err, fmt.Errorf("closing %s: %w", what, closeErr))
	}
}

// The values of --log-format.
const (
	textLog = "text"
	jsonLog = "json"
)

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var minimum slog.Level
	if err := minimum.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level must be debug, info, warn or error, not %q", level)
	}
	options := &slog.HandlerOptions{Level: minimum}
	switch format {
	case textLog:
		return slog.New(slog.NewTextHandler(w, options)), nil
	case jsonLog:
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("--log-format must be text or json, not %q", format)
}
